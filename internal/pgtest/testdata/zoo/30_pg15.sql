-- What came with PostgreSQL 15.
\if :pg15
CREATE SCHEMA zoo_pg15;
SET search_path = zoo_pg15;
CREATE UNLOGGED SEQUENCE unlogged_seq;
SELECT nextval('unlogged_seq') FROM generate_series(1, 4);
CREATE UNLOGGED TABLE unlogged_identity (id integer GENERATED ALWAYS AS IDENTITY, t text);
INSERT INTO unlogged_identity (t) VALUES ('a'), ('b');
CREATE TABLE one_null (a integer, b integer, CONSTRAINT one_null_key UNIQUE NULLS NOT DISTINCT (a));
INSERT INTO one_null VALUES (NULL, 1), (1, 2);
CREATE UNIQUE INDEX one_null_b ON one_null (b) NULLS NOT DISTINCT;
CREATE TABLE pairs (a integer, b integer, PRIMARY KEY (a, b));
CREATE TABLE set_some (a integer, b integer DEFAULT 0, c integer, FOREIGN KEY (a, b) REFERENCES zoo_pg15.pairs (a, b) ON DELETE SET NULL (a));
CREATE VIEW as_invoker WITH (security_invoker, security_barrier = false) AS SELECT a FROM one_null;
CREATE COLLATION icu_default (PROVIDER = icu, LOCALE = 'fr-CA');
ALTER TABLE one_null ALTER a SET STATISTICS 5;
CREATE TABLE published (id integer PRIMARY KEY, a text, hidden text);
INSERT INTO published VALUES (1, 'x', 'y');
RESET search_path;
CREATE PUBLICATION zoo_columns FOR TABLE zoo_pg15.published (id, a) WHERE (id > 0 AND a <> E'\\'), zoo_keys.items;
CREATE PUBLICATION zoo_schemas FOR TABLES IN SCHEMA zoo_pg15, acme, public WITH (publish = 'insert, truncate');
COMMENT ON PUBLICATION zoo_columns IS 'some of it';
\endif
