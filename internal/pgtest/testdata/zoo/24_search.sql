-- zoo_search: text search, collations, conversions, foreign tables.
CREATE SCHEMA zoo_search;
SET search_path = zoo_search;

CREATE COLLATION german (PROVIDER = icu, LOCALE = 'de-u-co-phonebk');
CREATE COLLATION no_case (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false);
CREATE COLLATION bytes (PROVIDER = libc, LC_COLLATE = 'C', LC_CTYPE = 'C');
CREATE COLLATION "Odd ""Coll"" 😀" FROM "C";
COMMENT ON COLLATION no_case IS 'a is A';
ALTER COLLATION german OWNER TO zoo_owner;
CREATE TABLE collated (a text COLLATE german, b text COLLATE no_case UNIQUE, c text COLLATE bytes, d varchar(9)[] COLLATE "Odd ""Coll"" 😀" DEFAULT '{}');
INSERT INTO collated VALUES ('Ärger', 'Abc', 'ß'), ('arg', 'abd', 'SS');
CREATE INDEX collated_a ON collated (a, b COLLATE "C");

CREATE CONVERSION latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
COMMENT ON CONVERSION latin IS 'from the past';
ALTER CONVERSION latin OWNER TO zoo_owner;

CREATE TEXT SEARCH PARSER parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
CREATE TEXT SEARCH TEMPLATE template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = snowball, Language = 'german', StopWords = 'german');
CREATE TEXT SEARCH DICTIONARY plain (TEMPLATE = template, Accept = 'false');
CREATE TEXT SEARCH CONFIGURATION config (PARSER = parser);
ALTER TEXT SEARCH CONFIGURATION config ADD MAPPING FOR asciiword, word, hword WITH stems, plain;
ALTER TEXT SEARCH CONFIGURATION config ADD MAPPING FOR "int" WITH pg_catalog.simple;
CREATE TEXT SEARCH CONFIGURATION copied (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION copied ALTER MAPPING REPLACE english_stem WITH zoo_search.stems;
COMMENT ON TEXT SEARCH PARSER parser IS 'splits';
COMMENT ON TEXT SEARCH TEMPLATE template IS 'a mould';
COMMENT ON TEXT SEARCH DICTIONARY stems IS 'roots';
COMMENT ON TEXT SEARCH CONFIGURATION config IS 'how to search';
ALTER TEXT SEARCH CONFIGURATION config OWNER TO zoo_owner;
ALTER TEXT SEARCH DICTIONARY stems OWNER TO "Zoo Odd-Role";
CREATE TABLE pages (id integer, body text, words tsvector GENERATED ALWAYS AS (to_tsvector('zoo_search.config', body)) STORED);
INSERT INTO pages VALUES (1, 'Die Häuser der Katzen'), (2, 'running dogs 42'), (3, NULL);
CREATE INDEX pages_words ON pages USING gin (words);
CREATE INDEX pages_expr ON pages USING gin (to_tsvector('zoo_search.copied', body));

CREATE FOREIGN TABLE remote (id integer OPTIONS (column_name 'ID ''q'''), t text DEFAULT 'x' NOT NULL, CONSTRAINT c CHECK (id > 0))
    SERVER zoo_remote OPTIONS (schema_name 'odd "schema"', table_name 'remote\');
COMMENT ON FOREIGN TABLE remote IS 'far away';
COMMENT ON COLUMN remote.t IS 'far column';
ALTER FOREIGN TABLE remote OWNER TO zoo_owner;
GRANT SELECT ON remote TO zoo_reader;
CREATE FOREIGN TABLE null_file (a text, b text) SERVER zoo_files OPTIONS (filename '/dev/null', format 'csv', delimiter E'\t', "null" '\N');
CREATE VIEW of_file AS SELECT a FROM null_file;
CREATE TABLE mixed (k integer, t text) PARTITION BY LIST (k);
CREATE TABLE mixed_here PARTITION OF mixed FOR VALUES IN (1);
CREATE FOREIGN TABLE mixed_there PARTITION OF mixed FOR VALUES IN (2) SERVER zoo_files OPTIONS (filename '/dev/null');
INSERT INTO mixed VALUES (1, 'here');
CREATE TABLE foreign_parent (a text);
CREATE FOREIGN TABLE foreign_child (extra text) INHERITS (foreign_parent) SERVER zoo_files OPTIONS (filename '/dev/null');
INSERT INTO foreign_parent VALUES ('local');
RESET search_path;
