-- Tenants with next to nothing.
CREATE SCHEMA zoo_empty;
CREATE SCHEMA zoo_functions_only AUTHORIZATION zoo_owner;
CREATE FUNCTION zoo_functions_only.one() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 1;
CREATE FUNCTION zoo_functions_only.two() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN zoo_functions_only.one() + 1; END $$;
COMMENT ON FUNCTION zoo_functions_only.two() IS 'one more';
CREATE SCHEMA zoo_types_only;
CREATE TYPE zoo_types_only.e AS ENUM ('a');
CREATE SCHEMA zoo_sequence_only;
CREATE SEQUENCE zoo_sequence_only.s;
SELECT setval('zoo_sequence_only.s', 9);
CREATE SCHEMA zoo_empty_tables;
CREATE TABLE zoo_empty_tables.a (id serial PRIMARY KEY);
CREATE TABLE zoo_empty_tables.b (a_id integer REFERENCES zoo_empty_tables.a (id));
