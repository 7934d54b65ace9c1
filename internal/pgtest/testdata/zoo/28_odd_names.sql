-- The same small tenant under names that break what quotes carelessly. Each
-- has a table, a key, a sequence, an index, a view, a type, a function, a
-- trigger, comments and grants, all with names made of the schema's own.
CREATE FUNCTION pg_temp.odd_tenant(s text) RETURNS void LANGUAGE plpgsql AS $fn$
DECLARE
    n text := left(s, 24);
    role_name text;
BEGIN
    SELECT rolname INTO role_name FROM pg_catalog.pg_roles WHERE rolname LIKE 'zoo ''odd''%';
    EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', s, role_name);
    EXECUTE format('COMMENT ON SCHEMA %I IS %L', s, s);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO zoo_reader', s);
    EXECUTE format('CREATE TYPE %I.%I AS ENUM (%L, ''other'')', s, n || '_enum', n);
    EXECUTE format('CREATE TABLE %I.%I (%I serial PRIMARY KEY, %I %I.%I DEFAULT %L, account_id bigint REFERENCES public.accounts (id), t text DEFAULT %L)',
        s, s, s, n || '_c', s, n || '_enum', n, s);
    EXECUTE format('CREATE TABLE %I.%I (id integer REFERENCES %I.%I)', s, n || '_child', s, s);
    EXECUTE format('INSERT INTO %I.%I (account_id) SELECT 1000 + g * 10 FROM generate_series(1, 5) AS g', s, s);
    EXECUTE format('INSERT INTO %I.%I SELECT g FROM generate_series(1, 5) AS g', s, n || '_child');
    EXECUTE format('CREATE INDEX %I ON %I.%I (%I, t)', n || '_idx', s, s, n || '_c');
    EXECUTE format('CREATE VIEW %I.%I AS SELECT * FROM %I.%I', s, n || '_view', s, s);
    EXECUTE format('CREATE MATERIALIZED VIEW %I.%I AS SELECT * FROM %I.%I', s, n || '_mat', s, n || '_view');
    EXECUTE format('CREATE FUNCTION %I.%I() RETURNS trigger LANGUAGE plpgsql AS %L', s, n || '_fn', 'BEGIN RETURN NEW; END /*' || replace(replace(s, '/*', '//'), '*/', '//') || '*/');
    EXECUTE format('CREATE TRIGGER %I BEFORE INSERT ON %I.%I FOR EACH ROW EXECUTE FUNCTION %I.%I()', n || '_trg', s, s, s, n || '_fn');
    EXECUTE format('COMMENT ON COLUMN %I.%I.%I IS %L', s, s, s, s);
    EXECUTE format('GRANT SELECT (%I) ON %I.%I TO %I', s, s, s, role_name);
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON TABLES TO zoo_reader', role_name, s);
END
$fn$;
SELECT pg_temp.odd_tenant(s) FROM unnest(ARRAY[
    'acme', 'Acme', 'ACME Corp', 'with "quotes"', 'it''s', 'dots.in.name', '.', '..', '../../etc/passwd', 'a/b', 'back\slash', 'c:\x', '$dollar$1', '100%s%20',
    E'new\nline', E'cr\rtab\t', '😀 emoji', 'ünïcödé', 'select', 'table', 'user', '-- x', '/* x', '*', 'a?b', 'a b ', ' ', '1', 'core', 'a,b;c', '${HOME}', '`x`', '{"a"}', ':v',
    'dbname=postgres', 'x_63_' || repeat('x', 58), 'x_63_' || repeat('x', 57) || 'y', 'ü63' || repeat('é', 29) || 'z'
]) AS s;
DROP FUNCTION pg_temp.odd_tenant(text);
