-- zoo_types: every kind of value and every kind of type.
CREATE SCHEMA zoo_types AUTHORIZATION zoo_owner;
COMMENT ON SCHEMA zoo_types IS E'values\nand types';
SET search_path = zoo_types;
SET TIME ZONE 'UTC';

-- Types.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
ALTER TYPE mood ADD VALUE 'terrible' BEFORE 'sad';
ALTER TYPE mood ADD VALUE 'meh' AFTER 'sad';
ALTER TYPE mood ADD VALUE E'tab\tand\nline' BEFORE 'happy';
ALTER TYPE mood RENAME VALUE 'ok' TO 'fine';
CREATE TYPE nothing AS ENUM ();
COMMENT ON TYPE mood IS 'how it feels';
ALTER TYPE mood OWNER TO zoo_owner;
GRANT USAGE ON TYPE mood TO zoo_reader;
REVOKE USAGE ON TYPE mood FROM PUBLIC;

CREATE TYPE point3 AS (x double precision, gone integer, y double precision, "Z z" numeric(10, 3));
ALTER TYPE point3 DROP ATTRIBUTE gone;
ALTER TYPE point3 ADD ATTRIBUTE note text COLLATE "C";
COMMENT ON TYPE point3 IS 'a place';
COMMENT ON COLUMN point3."Z z" IS 'height';
CREATE TYPE nested AS (p point3, moods mood[], pairs integer[]);
CREATE TYPE empty_composite AS ();

CREATE FUNCTION float_gap(double precision, double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1 - $2';
CREATE TYPE float_span AS RANGE (subtype = float8, subtype_diff = float_gap, multirange_type_name = "Float Spans");
CREATE TYPE word_span AS RANGE (subtype = text, collation = "C");
COMMENT ON TYPE float_span IS 'between two floats';

CREATE DOMAIN small AS integer DEFAULT 7 CONSTRAINT positive CHECK (VALUE > 0) CONSTRAINT "not too big" CHECK (VALUE < 100);
CREATE DOMAIN smaller AS small CHECK (VALUE < 10);
CREATE DOMAIN late_rule AS text;
CREATE DOMAIN smalls AS small[] CHECK (cardinality(VALUE) < 5);
COMMENT ON CONSTRAINT positive ON DOMAIN small IS 'greater than nothing';

CREATE TABLE domains (id integer PRIMARY KEY, a small, b smaller DEFAULT 3, c late_rule, d smalls);
INSERT INTO domains VALUES (1, 50, 5, 'breaks the rule', '{1,2}'), (2, NULL, NULL, NULL, NULL), (3, DEFAULT, DEFAULT, '', '{}');
-- Not valid: the row that breaks it is already there.
ALTER DOMAIN late_rule ADD CONSTRAINT no_spaces CHECK (VALUE !~ ' ') NOT VALID;

-- A base type of its own, with functions of the server.
CREATE TYPE shell_only;
CREATE TYPE label;
CREATE FUNCTION label_in(cstring) RETURNS label LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION label_out(label) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE label (INPUT = label_in, OUTPUT = label_out, LIKE = text, CATEGORY = 'S', DEFAULT = 'none');
CREATE TABLE labels (id integer, l label);
INSERT INTO labels VALUES (1, DEFAULT), (2, E'x\ty'), (3, '');

-- One row of each type, and its special values.
CREATE TABLE kinds (
    id integer PRIMARY KEY,
    b boolean, i2 smallint, i4 integer, i8 bigint, n numeric, n2 numeric(20, 6), f4 real, f8 double precision, m money,
    c char(5), vc varchar(10), t text, nm name, ch "char", by bytea,
    d date, ti time, tz timetz, ts timestamp, tstz timestamptz, ts0 timestamptz(0), iv interval, ivy interval year to month,
    j json, jb jsonb, jp jsonpath, x xml, u uuid, bi bit(5), vb bit varying, ip inet, ci cidr, ma macaddr, ma8 macaddr8,
    pt point, ln line, ls lseg, bx box, pa path, po polygon, cc circle,
    tv tsvector, tq tsquery, r4 int4range, rn numrange, rt tstzrange, mr int4multirange, lsn pg_lsn, sn pg_snapshot,
    rc regclass, rty regtype, rp regprocedure, o oid,
    e mood, cp point3, ne nested, fs float_span, fm "Float Spans", ws word_span, ec empty_composite
);
INSERT INTO kinds (id) VALUES (0);
INSERT INTO kinds VALUES (
    1, true, -32768, -2147483648, -9223372036854775808, 'NaN', -0.000001, 'NaN', 'NaN', -12.34,
    'ab', '', '', '', '', '',
    '4713-01-01 BC', '24:00:00', '00:00:00+15:59', '0044-03-15 12:00:00.000001 BC', '-infinity', '1999-12-31 23:59:59.6+00',
    '-178000000 years', '-1 years -11 mons',
    '{"a" : 1, "a": [2 ,3]}', '{"a": 1, "b": {"c": [null, true, 1.50, "\\ \" \t \u00e9 \u2028"]}}', '$.a[*] ? (@ > 1)',
    '<a b="c">&lt;text/>&amp;</a>', '00000000-0000-0000-0000-000000000000', B'10101', B'', '::1/128', '10.1.0.0/16', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
    '(1e300,-0)', '{1,-1,0}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),0>',
    $$'a b':1A,2B 'it''s':3 '\\':4$$, $$'fat' & ( 'rat':AB | !'c''t' ) <2> 'x':*$$, 'empty', '(,)', '[-infinity,infinity]', '{[1,3),[5,8)}', '16/B374D848', '10:20:10,14,15',
    'kinds', 'mood[]', 'float_gap(double precision,double precision)', 4294967295,
    'terrible', ROW ('-Infinity', '-0', 1.500, E'a,"b"\\(c)\n'), ROW (ROW (1, NULL, NULL, ''), '{sad,NULL,"tab	and
line"}', '[0:1]={1,2}'), '[1.5,NaN]', '{[1,2),(3,4]}', '["a b","c,\"d")', ROW ()
);
INSERT INTO kinds VALUES (
    2, false, 32767, 2147483647, 9223372036854775807, 'Infinity', 12345678901234.567890, 'Infinity', '-Infinity', 92233720368547758.07,
    'abcde', '0123456789', E'\\.', repeat('n', 63), E'\\377', '\x00ff5c0a0d09',
    '5874897-12-31', '00:00:00', '23:59:59.999999-15:59', '294276-12-31 23:59:59.999999', 'infinity', 'infinity', '1 year 2 mons -3 days 04:05:06.789', '178 years',
    'null', 'null', 'strict $', '', 'ffffffff-ffff-ffff-ffff-ffffffffffff', B'00000', B'1', '255.255.255.255', '::/0', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff',
    '(NaN,Infinity)', '{0,1,-0.1}', '[(1,2),(1,2)]', '(Infinity,1),(-Infinity,0)', '((0,0))', '((1,1))', '<(1,2),Infinity>',
    '', '', '[1,1]', '[1.10,)', '[2000-01-01 00:00:00+00,infinity)', '{}', '0/0', '1:1:',
    'zoo_types.kinds', 'pg_catalog.int4', 'pg_catalog.now()', 0,
    'happy', NULL, ROW (NULL, '{}', '{}'), 'empty', '{}', '(,)', NULL
);
INSERT INTO kinds (id, n, f4, f8, d, ts, iv, t, by) VALUES
    (3, '-Infinity', '-0', 4.9406564584124654e-324, 'infinity', 'infinity', '0', E'\\N', '\x5c4e'),
    (4, 1.000, 3.4028235e38, 1.7976931348623157e308, '-infinity', '-infinity', '-00:00:00.000001', 'N', '\x'),
    (5, 1.0, 1e-45, 0.1, '0001-12-31 BC', '0001-01-01', 'P1Y2M3DT4H5M6.5S', NULL, NULL),
    (6, ('1' || repeat('0', 1000) || '.' || repeat('3', 500))::numeric, 0.1, 0.30000000000000004, '2024-02-29', '2024-02-29 24:00:00', '1 mon -1 day', ' lead and trail ', '\x00');

-- Text as COPY and SQL quote it.
CREATE TABLE texts (id integer PRIMARY KEY, t text, v varchar, c char(8), a text[]);
INSERT INTO texts (id, t, a) VALUES
    (1, NULL, NULL), (2, '', '{}'), (3, '\N', '{"\\N",NULL,"NULL",""}'), (4, E'\\.', ARRAY[E'\\.']), (5, E'a\n\\.\nb', ARRAY[E'a\n\\.\nb']),
    (6, E'\t', ARRAY[E'\t', E'\n', E'\r', E'\r\n', E'\\', '"', '''', ',', '{', '}', ' ']), (7, E'\n', NULL), (8, E'\r', NULL), (9, E'\r\n', NULL),
    (10, E'\\', NULL), (11, E'\\\\', NULL), (12, E'\\n', NULL), (13, E'a\\', NULL), (14, E'\b\f\v\x01\x02\x1b\x7f', NULL), (15, 'NULL', NULL), (16, 'null', NULL),
    (17, '''; DROP TABLE texts; --', NULL), (18, '$$ $_$ $body$', NULL), (19, E'\\connect postgres\n\\! true\n', NULL), (20, E'\\restrict x\n\\unrestrict x', NULL),
    (21, E'\U0001F418 \u00e9 e\u0301 \u200b \ufeff \u202e \u2028 \U0010FFFF', NULL), (22, E'-- comment\n/* and\nmore', NULL), (23, repeat(E'\\.\n', 1000), NULL),
    (24, E'COPY texts FROM stdin;\n1\t2\n\\.\n', NULL), (25, ' ', NULL), (26, E'\n\n\n', NULL), (27, repeat(E'\\', 4096) || E'\t', NULL), (28, E'%s %d %% :x :''x'' :"x" {{.}}', NULL);
UPDATE texts SET v = t, c = left(t, 8);
CREATE TABLE one_text (t text);
INSERT INTO one_text VALUES (NULL), (''), (E'\\N'), (E'\\.'), (E'\\'), (E'.'), ('\n');
CREATE TABLE all_bytes (id integer PRIMARY KEY, by bytea, t text);
INSERT INTO all_bytes SELECT n, decode(lpad(to_hex(n), 2, '0'), 'hex'), CASE WHEN n > 0 THEN chr(n) END FROM generate_series(0, 255) AS n;

CREATE TABLE arrays (id integer PRIMARY KEY, i integer[], i3 integer[][][], t text[], m mood[], c point3[], r int4range[], j jsonb[], ts timestamptz[], lower_bound integer[]);
INSERT INTO arrays VALUES
    (1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
    (2, '{1,NULL,3}', '{{{1,2},{3,4}},{{5,6},{7,NULL}}}', ARRAY['', NULL, 'NULL', 'a"b', E'c\\d', E'e\nf', 'g,h', '{i}', ' j '], '{happy,sad}', ARRAY[ROW (1, 2, 3, 'a,b')::point3, NULL],
     '{"[1,5)",empty,NULL}', ARRAY['{"a": "b,c"}'::jsonb, NULL], '{infinity,"2024-01-01 00:00:00+00"}', '[0:2]={1,2,3}'),
    (3, NULL, '[-1:0][5:5][2:3]={{{1,2}},{{3,4}}}', NULL, NULL, NULL, NULL, NULL, NULL, '[-5:-5]={9}');

CREATE TABLE documents (id bigint GENERATED BY DEFAULT AS IDENTITY, body jsonb, raw json, page xml);
INSERT INTO documents (body, raw, page)
    SELECT jsonb_build_object('id', n, 'tags', jsonb_build_array(n, n::text, NULL), 'deep', jsonb_build_object('q', E'"\\/\b\f\n\r\t', 'n', 1.10)),
           format('{"id":%s ,  "id":%s}', n, n + 1)::json, xmlelement(name "Doc", xmlattributes(n AS id), E'<&>\n')
    FROM generate_series(1, 50) AS n;

-- Extreme and wide rows.
CREATE TABLE big_values (id integer PRIMARY KEY, t text, b bytea);
ALTER TABLE big_values ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
INSERT INTO big_values
    SELECT 1, left(repeat(E'0123456789 tab\t line\n back\\slash \\. \r\n', :big / 37 + 1), :big), NULL
    UNION ALL
    SELECT 2, NULL, decode(left(string_agg(md5(n::text), ''), 2 * :big), 'hex') FROM generate_series(0, :big / 16 + 1) AS n
    UNION ALL
    SELECT 3, '', '';
CREATE TABLE wide_row (LIKE kinds);
SELECT format('ALTER TABLE wide_row %s', string_agg(format('ADD COLUMN c%s integer DEFAULT %s', n, n), ', ')) FROM generate_series(1, 900) AS n \gexec
INSERT INTO wide_row (id) VALUES (1), (2);

-- Sequences.
CREATE SEQUENCE seq_plain;
CREATE SEQUENCE seq_never_called START WITH 42;
CREATE SEQUENCE seq_down AS smallint INCREMENT BY -7 MINVALUE -100 MAXVALUE 50 START WITH 10 CYCLE;
CREATE SEQUENCE seq_step INCREMENT BY 13 MINVALUE -5 START WITH 5 CACHE 20;
CREATE SEQUENCE seq_at_end AS integer MAXVALUE 3 NO CYCLE;
CREATE SEQUENCE seq_set_uncalled;
CREATE SEQUENCE seq_max START WITH 9223372036854775806;
CREATE SEQUENCE "Seq ""odd"".name$\ 😀";
SELECT nextval('seq_plain') FROM generate_series(1, 100);
SELECT nextval('seq_down') FROM generate_series(1, 18);
SELECT nextval('seq_step') FROM generate_series(1, 5);
SELECT nextval('seq_at_end') FROM generate_series(1, 3);
SELECT setval('seq_set_uncalled', 77, false);
SELECT nextval('seq_max'), nextval('seq_max');
SELECT setval('"Seq ""odd"".name$\ 😀"', 123);
COMMENT ON SEQUENCE seq_down IS 'downhill';
ALTER SEQUENCE seq_down OWNER TO "Zoo Odd-Role";
GRANT SELECT, USAGE ON SEQUENCE seq_plain TO zoo_reader;

CREATE TABLE numbered (
    always_id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME zoo_types."Always Seq" START WITH -10 INCREMENT BY -2 MINVALUE -1000 MAXVALUE -1 CYCLE),
    default_id integer GENERATED BY DEFAULT AS IDENTITY,
    serial_id serial, big bigserial, small smallserial,
    borrowed bigint DEFAULT nextval('zoo_types.seq_plain'),
    own_nextval text DEFAULT 'n' || nextval('zoo_types.seq_step')::text
);
INSERT INTO numbered (borrowed) SELECT n FROM generate_series(1, 9) AS n;
INSERT INTO numbered DEFAULT VALUES;
CREATE SEQUENCE owned_elsewhere OWNED BY numbered.borrowed;
ALTER SEQUENCE numbered_big_seq OWNED BY NONE;
ALTER TABLE numbered RENAME COLUMN serial_id TO "Renamed Serial";

-- Defaults and generated columns.
CREATE FUNCTION default_code() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'code-' || nextval('zoo_types.seq_plain'); END $$;
CREATE FUNCTION scale(n numeric, by numeric DEFAULT 2) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT n * by $$;
CREATE TABLE computed (
    id integer DEFAULT (random() * 0)::integer + 1,
    code text DEFAULT zoo_types.default_code(),
    at timestamptz DEFAULT CURRENT_TIMESTAMP, who name DEFAULT CURRENT_USER,
    gone text GENERATED ALWAYS AS ('x') STORED,
    base numeric DEFAULT 1.50,
    doubled numeric GENERATED ALWAYS AS (zoo_types.scale(base)) STORED,
    "Gen ""odd""" text GENERATED ALWAYS AS (CASE WHEN base > 1 THEN E'\\' ELSE '' END) STORED
);
ALTER TABLE computed DROP COLUMN gone;
INSERT INTO computed (id, at, who, base) SELECT n, '2024-01-01', 'someone', n / 3.0 FROM generate_series(1, 20) AS n;
CREATE TABLE only_generated (g integer GENERATED ALWAYS AS (40 + 2) STORED);
INSERT INTO only_generated DEFAULT VALUES;
INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE all_dropped (a integer, b text);
INSERT INTO all_dropped SELECT n, 'x' FROM generate_series(1, 5) AS n;
ALTER TABLE all_dropped DROP COLUMN a, DROP COLUMN b;
CREATE TABLE some_dropped (first integer, a text, mid integer, b integer NOT NULL, last text);
INSERT INTO some_dropped SELECT n, 'a' || n, n, n, 'z' FROM generate_series(1, 30) AS n;
ALTER TABLE some_dropped DROP COLUMN first, DROP COLUMN mid, DROP COLUMN last;
ALTER TABLE some_dropped ADD COLUMN added text DEFAULT E'fast\tdefault', ADD COLUMN "Null" text;
CREATE TABLE empty_table (id integer PRIMARY KEY, t text);
CREATE TABLE t (t text, ctid_ integer, "row" text);
INSERT INTO t VALUES ('a column like its table', 1, 'r');
CREATE FUNCTION to_text(t) RETURNS text LANGUAGE sql AS $$ SELECT 'a cast that hides the row' $$;
CREATE CAST (t AS text) WITH FUNCTION to_text(t);
CREATE TABLE of_type OF point3 (x WITH OPTIONS DEFAULT 1.5, PRIMARY KEY (x));
INSERT INTO of_type (y, note) VALUES (2, 'typed');
RESET search_path;
