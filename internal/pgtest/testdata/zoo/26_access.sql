-- zoo_access: owners and privileges.
CREATE SCHEMA zoo_access AUTHORIZATION "Zoo Odd-Role";
GRANT USAGE ON SCHEMA zoo_access TO zoo_reader;
GRANT ALL ON SCHEMA zoo_access TO zoo_owner WITH GRANT OPTION;
SET search_path = zoo_access;
CREATE TABLE t1 (id serial PRIMARY KEY, a text, "B b" text);
ALTER TABLE t1 OWNER TO zoo_owner;
INSERT INTO t1 (a) VALUES ('x');
GRANT SELECT, INSERT ON t1 TO zoo_reader WITH GRANT OPTION;
GRANT TRUNCATE, REFERENCES, TRIGGER ON t1 TO PUBLIC;
GRANT UPDATE (a, "B b"), REFERENCES (id) ON t1 TO zoo_writer;
GRANT SELECT (a) ON t1 TO "select", "Zoo Odd-Role" WITH GRANT OPTION;
GRANT USAGE ON SCHEMA zoo_access TO zoo_writer, "select";
-- Granted by one who is not the owner.
SET SESSION AUTHORIZATION zoo_reader;
GRANT SELECT ON zoo_access.t1 TO zoo_writer;
SET SESSION AUTHORIZATION "Zoo Odd-Role";
GRANT SELECT (a) ON zoo_access.t1 TO zoo_writer;
RESET SESSION AUTHORIZATION;
CREATE TABLE owner_without_rights (id integer);
ALTER TABLE owner_without_rights OWNER TO zoo_owner;
REVOKE ALL ON owner_without_rights FROM zoo_owner;
CREATE TABLE all_revoked (id integer);
REVOKE ALL ON all_revoked FROM CURRENT_USER;
CREATE TABLE odd_owner (id integer);
INSERT INTO odd_owner VALUES (1);
SELECT format('ALTER TABLE zoo_access.odd_owner OWNER TO %I; GRANT SELECT ON zoo_access.t1 TO %I; GRANT UPDATE (a) ON zoo_access.t1 TO %I;', rolname, rolname, rolname)
    FROM pg_catalog.pg_roles WHERE rolname LIKE 'zoo ''odd''%' \gexec
CREATE TABLE keyword_owner (id integer);
ALTER TABLE keyword_owner OWNER TO "select";
CREATE SEQUENCE s1;
GRANT USAGE, SELECT ON s1 TO zoo_reader;
GRANT UPDATE ON s1 TO "Zoo Odd-Role";
CREATE VIEW v1 AS SELECT * FROM t1;
GRANT SELECT (id) ON v1 TO zoo_writer;
CREATE FUNCTION f1() RETURNS integer LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON FUNCTION f1() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION f1() TO zoo_reader;
CREATE DOMAIN d1 AS integer;
REVOKE USAGE ON TYPE d1 FROM PUBLIC;
GRANT USAGE ON TYPE d1 TO zoo_writer;
CREATE TYPE "Type ""odd""" AS (a integer);
ALTER TYPE "Type ""odd""" OWNER TO "Zoo Odd-Role";
COMMENT ON TYPE "Type ""odd""" IS NULL;
RESET search_path;

ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner IN SCHEMA zoo_access GRANT SELECT ON TABLES TO zoo_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner IN SCHEMA zoo_access GRANT USAGE ON SEQUENCES TO zoo_reader WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE "Zoo Odd-Role" IN SCHEMA zoo_access GRANT EXECUTE ON FUNCTIONS TO zoo_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE "Zoo Odd-Role" IN SCHEMA zoo_access GRANT USAGE ON TYPES TO "select";
-- For the whole database.
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner GRANT SELECT ON TABLES TO "Zoo Odd-Role";
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner GRANT USAGE ON SCHEMAS TO zoo_reader;
-- In the schema, for the very role that restores: what it creates there must
-- not come out with more rights than it had.
ALTER DEFAULT PRIVILEGES IN SCHEMA zoo_access GRANT INSERT ON TABLES TO zoo_writer;
\if :loader_defaults
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO zoo_reader;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON SEQUENCES TO zoo_reader;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
\endif
