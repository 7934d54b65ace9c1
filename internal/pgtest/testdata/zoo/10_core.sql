-- Core: the shared tables of the application in public, with the extensions.

CREATE SCHEMA extensions AUTHORIZATION zoo_owner;
COMMENT ON SCHEMA extensions IS 'extensions that do not clutter public';
GRANT USAGE ON SCHEMA extensions TO PUBLIC;
CREATE SCHEMA zoo_ext;

CREATE EXTENSION pg_trgm WITH SCHEMA public;
CREATE EXTENSION btree_gist WITH SCHEMA public;
CREATE EXTENSION hstore WITH SCHEMA extensions;
CREATE EXTENSION cube WITH SCHEMA extensions;
CREATE EXTENSION earthdistance WITH SCHEMA extensions;
CREATE EXTENSION "uuid-ossp" WITH SCHEMA extensions;
CREATE EXTENSION postgres_fdw WITH SCHEMA extensions;
CREATE EXTENSION file_fdw WITH SCHEMA public;
CREATE EXTENSION citext WITH SCHEMA zoo_ext;
CREATE EXTENSION pg_buffercache WITH SCHEMA extensions;
COMMENT ON EXTENSION hstore IS E'not the comment it came with:\n''quoted'', and a \\ backslash';
-- Privileges on what an extension owns, other than those it came with.
GRANT SELECT ON extensions.pg_buffercache TO zoo_reader;
REVOKE EXECUTE ON FUNCTION public.similarity(text, text) FROM PUBLIC;

COMMENT ON SCHEMA public IS 'shared by all tenants';
GRANT USAGE ON SCHEMA public TO zoo_reader, "Zoo Odd-Role" WITH GRANT OPTION;

CREATE TYPE public.plan AS ENUM ('free', 'team', 'enterprise');
ALTER TYPE public.plan ADD VALUE 'trial' BEFORE 'free';
ALTER TYPE public.plan ADD VALUE 'it''s "odd"\ ' AFTER 'team';
CREATE DOMAIN public.slug AS text COLLATE "C" NOT NULL CHECK (VALUE ~ '^[a-z0-9_-]+$');
COMMENT ON DOMAIN public.slug IS 'part of a URL';

CREATE TABLE public.accounts (
    id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1000 INCREMENT BY 10) PRIMARY KEY,
    slug public.slug UNIQUE,
    plan public.plan DEFAULT 'trial' NOT NULL,
    parent_id bigint REFERENCES public.accounts (id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    balance numeric(14, 2) DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    search tsvector GENERATED ALWAYS AS (to_tsvector('pg_catalog.simple', (slug)::text)) STORED
);
ALTER TABLE public.accounts OWNER TO zoo_owner;
COMMENT ON TABLE public.accounts IS 'who pays';
COMMENT ON COLUMN public.accounts.settings IS E'free form\n\tJSON';
GRANT SELECT ON public.accounts TO zoo_reader;
GRANT SELECT (id, slug), UPDATE (settings) ON public.accounts TO "Zoo Odd-Role";
CREATE INDEX accounts_search ON public.accounts USING gin (search);
CREATE INDEX accounts_slug_trgm ON public.accounts USING gin ((slug::text) public.gin_trgm_ops);
INSERT INTO public.accounts (slug, plan, settings, balance, created_at)
    SELECT 'account-' || n, (enum_range(NULL::public.plan))[1 + n % 5], jsonb_build_object('n', n, 'odd', E'\t\n\\'), n / 7.0,
           '2024-02-29 12:00:00+00'::timestamptz + n * interval '1 hour'
    FROM generate_series(1, 60) AS n;
UPDATE public.accounts SET parent_id = 1000 + (id - 1000) / 20 * 10 WHERE id > 1000;

CREATE SEQUENCE public.invoice_number START WITH 2024000001;
ALTER SEQUENCE public.invoice_number OWNER TO zoo_owner;
GRANT USAGE ON SEQUENCE public.invoice_number TO zoo_writer;
SELECT nextval('public.invoice_number') FROM generate_series(1, 3);

CREATE FUNCTION public.next_invoice() RETURNS text LANGUAGE sql
    AS $$ SELECT 'INV-' || nextval('public.invoice_number') $$;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.touched := NEW.touched + 1;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.touch() IS 'counts the writes to a row; rows that a restore writes must not count';

CREATE TABLE public.invoices (
    number text DEFAULT public.next_invoice() PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES public.accounts (id),
    during daterange NOT NULL,
    touched integer DEFAULT 0 NOT NULL,
    EXCLUDE USING gist (account_id WITH =, during WITH &&)
);
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON public.invoices FOR EACH ROW EXECUTE FUNCTION public.touch();
INSERT INTO public.invoices (account_id, during)
    SELECT id, daterange('2024-01-01'::date + (n * 31), '2024-01-01'::date + (n * 31) + 31)
    FROM public.accounts, generate_series(0, 2) AS n ORDER BY id, n;

CREATE VIEW public.account_totals AS
    SELECT a.id, a.slug, a.plan, count(i.number) AS invoices
    FROM public.accounts a LEFT JOIN public.invoices i ON i.account_id = a.id
    GROUP BY a.id;
COMMENT ON VIEW public.account_totals IS 'lives on the primary key of accounts';
COMMENT ON COLUMN public.account_totals.invoices IS 'how many';
CREATE MATERIALIZED VIEW public.plan_totals AS SELECT plan, sum(invoices) AS invoices FROM public.account_totals GROUP BY plan;
CREATE UNIQUE INDEX plan_totals_plan ON public.plan_totals (plan);

CREATE TABLE public.event_log (at_tag text NOT NULL, what text);

-- Ordinary application tables of a core that tenants refer to.
CREATE TABLE public.countries (code char(2) PRIMARY KEY, name text NOT NULL);
INSERT INTO public.countries VALUES ('ch', 'Schweiz'), ('de', 'Deutschland'), ('ci', E'C\u00f4te d''Ivoire'), ('x ', '');
CREATE UNLOGGED TABLE public.sessions (token uuid PRIMARY KEY, account_id bigint REFERENCES public.accounts (id), data bytea);
INSERT INTO public.sessions SELECT md5(n::text)::uuid, 1000 + n * 10, decode(md5(n::text), 'hex') FROM generate_series(0, 20) AS n;
CREATE TABLE public."Odd ""Core"" $table\ 😀" ("a column.with dots" text, "SELECT" integer, "%s" text DEFAULT E'\\x');
INSERT INTO public."Odd ""Core"" $table\ 😀" VALUES ('', 1, DEFAULT), (NULL, 2, NULL), (E'\\N', 3, E'\\.'), (E'\\.', 4, E'\n\\.\n');
ALTER TABLE public."Odd ""Core"" $table\ 😀" OWNER TO "Zoo Odd-Role";
