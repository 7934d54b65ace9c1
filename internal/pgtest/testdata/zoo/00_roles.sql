-- Roles belong to the cluster, so another database, or another test at this
-- very moment, may have made them already.
DO $do$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY[
        'zoo_owner', 'zoo_reader', 'zoo_writer', 'Zoo Odd-Role', 'select',
        E'zoo ''odd'' "role".$1 %s/../\\ \U0001F418\nline'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = r) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I', r);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$do$;
