-- zoo_code: views, functions, operators, triggers, rules, policies.
CREATE SCHEMA zoo_code;
SET search_path = zoo_code;

CREATE TABLE people (
    id integer PRIMARY KEY, name text NOT NULL, boss integer REFERENCES people (id), salary numeric, secret text, touched integer DEFAULT 0 NOT NULL
);
INSERT INTO people SELECT n, 'P' || n, NULLIF(n / 3, 0), n * 100.50, md5(n::text) FROM generate_series(1, 60) AS n;
CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text, n bigint);
INSERT INTO audit (what, n) VALUES ('start', 1);

-- Views.
CREATE VIEW simple_view (pid, "P Name") AS SELECT id, name FROM people;
CREATE VIEW updatable AS SELECT * FROM people WHERE salary > 10 WITH CASCADED CHECK OPTION;
CREATE VIEW local_check AS SELECT id, name FROM updatable WHERE id > 5 WITH LOCAL CHECK OPTION;
CREATE VIEW guarded WITH (security_barrier) AS SELECT id, name FROM people WHERE secret IS NOT NULL;
CREATE RECURSIVE VIEW chain (id, depth, path) AS
    SELECT id, 1, ARRAY[id] FROM people WHERE boss IS NULL
    UNION ALL SELECT p.id, c.depth + 1, c.path || p.id FROM people p JOIN chain c ON p.boss = c.id;
CREATE VIEW by_key AS SELECT p.id, p.name, p.salary, count(*) AS reports FROM people p JOIN people r ON r.boss = p.id GROUP BY p.id;
CREATE VIEW on_by_key AS SELECT id, reports * 2 AS twice FROM by_key;
CREATE VIEW columnless AS SELECT FROM people;
CREATE VIEW literal AS SELECT 'text'::text AS "unusual "" name", NULL::integer AS n, E'\\\n\t''' AS nasty, ARRAY[1, 2] AS a;
ALTER VIEW simple_view ALTER COLUMN "P Name" SET DEFAULT 'view default';
ALTER VIEW simple_view OWNER TO zoo_owner;
COMMENT ON VIEW chain IS 'who obeys whom';
COMMENT ON COLUMN simple_view."P Name" IS 'the name';
GRANT SELECT ON simple_view TO zoo_reader;
GRANT SELECT ("P Name") ON simple_view TO "Zoo Odd-Role" WITH GRANT OPTION;

-- A refresh runs as the view's owner, who needs the grants by then.
CREATE TABLE staff AS SELECT id, name, salary FROM people;
GRANT USAGE ON SCHEMA zoo_code TO zoo_owner;
GRANT SELECT ON staff TO zoo_owner;
CREATE MATERIALIZED VIEW m_base AS SELECT id, name, salary FROM staff WHERE id % 2 = 0;
CREATE UNIQUE INDEX m_base_id ON m_base (id);
CREATE INDEX m_base_name ON m_base (lower(name)) WHERE salary > 1000;
CREATE MATERIALIZED VIEW a_second AS SELECT count(*) AS n, sum(salary) AS total FROM m_base;
CREATE MATERIALIZED VIEW a_third WITH (fillfactor = 60) AS SELECT n + 1 AS n FROM a_second, by_key WHERE by_key.id = 1;
CREATE MATERIALIZED VIEW unpopulated AS SELECT id FROM m_base WITH NO DATA;
CREATE INDEX unpopulated_id ON unpopulated (id);
CREATE MATERIALIZED VIEW m_by_key AS SELECT id, name, count(*) AS n FROM people GROUP BY id;
CREATE VIEW on_matview AS SELECT * FROM a_third;
COMMENT ON MATERIALIZED VIEW m_base IS 'even people';
COMMENT ON COLUMN m_base.salary IS 'a month';
ALTER MATERIALIZED VIEW m_base OWNER TO zoo_owner;
ALTER MATERIALIZED VIEW m_base CLUSTER ON m_base_id;
ALTER MATERIALIZED VIEW m_base ALTER COLUMN salary SET STATISTICS 77;
GRANT SELECT ON m_base TO zoo_reader;

-- Functions.
CREATE FUNCTION add(a integer, b integer DEFAULT 1) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF COST 5 AS 'SELECT a + b';
CREATE FUNCTION add(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT a || b';
CREATE FUNCTION head_count() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM people; END;
CREATE FUNCTION by_key_atomic() RETURNS TABLE (id integer, name text, n bigint) LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT p.id, p.name, count(*) FROM people p GROUP BY p.id; END;
CREATE FUNCTION returned(x integer) RETURNS integer LANGUAGE sql IMMUTABLE RETURN x * 2 + 1;
CREATE FUNCTION nasty() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = zoo_code, pg_temp SET work_mem = '8MB' SET "zoo.odd" TO 'it''s, "odd"' AS $_x_$
DECLARE
    s text := $$ dollar $$ || $_$ other $_$ || E'back\\slash' || ';' || '--';
BEGIN
    /* \. */
    -- Name: fake; Type: TABLE; Schema: public; Owner: -
    RETURN s || '
\.
\connect elsewhere
';
END
$_x_$;
CREATE FUNCTION crlf() RETURNS text LANGUAGE plpgsql AS E'BEGIN\r\n\tRETURN ''a\r\nb'';\r\nEND';
CREATE FUNCTION outs(IN a integer, OUT b integer, INOUT c text, VARIADIC d integer[] DEFAULT '{}') RETURNS record LANGUAGE sql AS 'SELECT a, c';
CREATE FUNCTION setof_people() RETURNS SETOF people LANGUAGE sql STABLE ROWS 60 AS 'SELECT * FROM zoo_code.people';
CREATE FUNCTION poly(anyelement, anyarray) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT $2[1]';
CREATE FUNCTION "Odd ""Func"".name$\ 😀"("Arg ""a""" text DEFAULT E'\\') RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION windowed() RETURNS bigint LANGUAGE internal WINDOW IMMUTABLE AS 'window_row_number';
CREATE FUNCTION row_of_view(v simple_view) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT v.pid';
CREATE PROCEDURE note(what text, INOUT n bigint DEFAULT 0) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO zoo_code.audit (what, n) VALUES (what, n); END $$;
CREATE PROCEDURE note_atomic(w text) BEGIN ATOMIC INSERT INTO audit (what) VALUES (w); DELETE FROM audit WHERE what = 'never'; END;
ALTER FUNCTION add(integer, integer) OWNER TO zoo_owner;
COMMENT ON FUNCTION add(integer, integer) IS E'adds\nup';
COMMENT ON PROCEDURE note(text, bigint) IS 'notes';
REVOKE ALL ON FUNCTION add(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION add(integer, integer) TO zoo_reader WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE note(text, bigint) TO "Zoo Odd-Role";

-- A table, its default's function and the table's row type in a circle.
CREATE TABLE circle_table (id integer PRIMARY KEY, n integer);
CREATE FUNCTION circle_next() RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT coalesce(max(id), 0) + 1 FROM circle_table; END;
ALTER TABLE circle_table ALTER id SET DEFAULT circle_next();
CREATE FUNCTION circle_check(circle_table) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1.n IS NULL OR $1.n < 100';
ALTER TABLE circle_table ADD CONSTRAINT whole_row CHECK (circle_check(circle_table.*));
INSERT INTO circle_table (n) VALUES (1);
INSERT INTO circle_table (n) VALUES (NULL);
-- Two views in a circle, by way of a function's row type.
CREATE VIEW loop_a AS SELECT 1 AS x;
CREATE FUNCTION loop_f() RETURNS SETOF loop_a LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE VIEW loop_a AS SELECT x FROM (VALUES (1)) AS v (x) WHERE EXISTS (SELECT FROM loop_f());

-- Aggregates, operators, classes, casts.
CREATE AGGREGATE total(numeric) (SFUNC = numeric_add, STYPE = numeric, INITCOND = '0', COMBINEFUNC = numeric_add, PARALLEL = safe);
CREATE AGGREGATE my_rank(VARIADIC "any" ORDER BY VARIADIC "any") (SFUNC = ordered_set_transition_multi, STYPE = internal, FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL);
CREATE AGGREGATE my_percentile(double precision ORDER BY double precision) (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = percentile_cont_float8_final);
CREATE FUNCTION join_two(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT coalesce($1 || ',', '') || $2 $$;
CREATE AGGREGATE joined(text) (SFUNC = join_two, STYPE = text, MSFUNC = join_two, MINVFUNC = join_two, MSTYPE = text, FINALFUNC_MODIFY = read_write);
CREATE AGGREGATE nothing_in(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '0');
COMMENT ON AGGREGATE total(numeric) IS 'like sum';
ALTER AGGREGATE total(numeric) OWNER TO zoo_owner;

CREATE TYPE pair AS (a integer, b integer);
CREATE FUNCTION pair_lt(pair, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT ($1.a, $1.b) < ($2.a, $2.b)';
CREATE FUNCTION pair_le(pair, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT ($1.a, $1.b) <= ($2.a, $2.b)';
CREATE FUNCTION pair_eq(pair, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT ($1.a, $1.b) = ($2.a, $2.b)';
CREATE FUNCTION pair_ge(pair, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT ($1.a, $1.b) >= ($2.a, $2.b)';
CREATE FUNCTION pair_gt(pair, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT ($1.a, $1.b) > ($2.a, $2.b)';
CREATE FUNCTION pair_cmp(pair, pair) RETURNS integer LANGUAGE sql IMMUTABLE
    AS 'SELECT CASE WHEN ($1.a, $1.b) < ($2.a, $2.b) THEN -1 WHEN ($1.a, $1.b) = ($2.a, $2.b) THEN 0 ELSE 1 END';
CREATE OPERATOR <<< (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_lt, COMMUTATOR = >>>, NEGATOR = >>>=, RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR >>> (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_gt, COMMUTATOR = <<<, NEGATOR = <<<=);
CREATE OPERATOR <<<= (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_le, NEGATOR = >>>);
CREATE OPERATOR >>>= (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_ge, NEGATOR = <<<);
CREATE OPERATOR ==== (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_eq, COMMUTATOR = ====, HASHES, MERGES);
CREATE OPERATOR #! (RIGHTARG = integer, FUNCTION = returned);
COMMENT ON OPERATOR ==== (pair, pair) IS 'same';
COMMENT ON OPERATOR #! (NONE, integer) IS 'prefix';
ALTER OPERATOR ==== (pair, pair) OWNER TO zoo_owner;
CREATE OPERATOR FAMILY pair_family USING btree;
CREATE OPERATOR CLASS pair_ops FOR TYPE pair USING btree FAMILY pair_family AS
    OPERATOR 1 <<<, OPERATOR 2 <<<=, OPERATOR 3 ====, OPERATOR 4 >>>=, OPERATOR 5 >>>, FUNCTION 1 pair_cmp(pair, pair);
CREATE FUNCTION int_pair_cmp(integer, pair) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2.a';
CREATE FUNCTION int_pair_eq(integer, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2.a';
CREATE OPERATOR ==== (LEFTARG = integer, RIGHTARG = pair, FUNCTION = int_pair_eq);
ALTER OPERATOR FAMILY pair_family USING btree ADD OPERATOR 3 ==== (integer, pair), FUNCTION 1 (integer, pair) int_pair_cmp(integer, pair);
CREATE OPERATOR FAMILY empty_family USING hash;
COMMENT ON OPERATOR FAMILY pair_family USING btree IS 'pairs';
COMMENT ON OPERATOR CLASS pair_ops USING btree IS 'in order';
CREATE TABLE pairs (p pair, n integer);
INSERT INTO pairs SELECT ROW (n % 7, n)::pair, n FROM generate_series(1, 40) AS n;
CREATE INDEX pairs_p ON pairs (p pair_ops);

CREATE FUNCTION pair_text(pair) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.a || '/' || $1.b $$;
CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair) AS ASSIGNMENT;
COMMENT ON CAST (pair AS text) IS 'with a slash';
CREATE TYPE amount AS ENUM ('little', 'much');
CREATE CAST (amount AS integer) WITH INOUT AS IMPLICIT;

-- Triggers.
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$;
CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO zoo_code.audit (what, n) VALUES (TG_NAME || array_to_string(TG_ARGV, '|'), 1); RETURN NULL; END $$;
CREATE FUNCTION log_set() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO zoo_code.audit (what, n) SELECT 'set', count(*) FROM new_rows; RETURN NULL; END $$;
CREATE FUNCTION view_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO zoo_code.people (id, name) VALUES (NEW.id, NEW.name); RETURN NEW; END $$;
CREATE TRIGGER touch_it BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER off AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION log_it();
CREATE TRIGGER replica_only AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION log_it('replica');
CREATE TRIGGER always AFTER INSERT OR DELETE OR TRUNCATE ON people FOR EACH STATEMENT EXECUTE FUNCTION log_it('it''s', E'\\x\n', '', 'é😀');
CREATE TRIGGER conditional AFTER UPDATE OF name, salary ON people FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name AND NEW.salary > 10) EXECUTE FUNCTION log_it();
CREATE TRIGGER transitions AFTER UPDATE ON people REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION log_set();
CREATE CONSTRAINT TRIGGER checked AFTER INSERT OR UPDATE ON people FROM audit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION log_it();
CREATE TRIGGER instead INSTEAD OF INSERT ON by_key FOR EACH ROW EXECUTE FUNCTION view_insert();
CREATE TRIGGER "Odd ""Trigger"".name$\ 😀" BEFORE DELETE ON people FOR EACH ROW WHEN (OLD.id < 0) EXECUTE FUNCTION touch();
ALTER TABLE people DISABLE TRIGGER off;
ALTER TABLE people ENABLE REPLICA TRIGGER replica_only;
ALTER TABLE people ENABLE ALWAYS TRIGGER always;
ALTER TRIGGER touch_it ON people DEPENDS ON EXTENSION btree_gist;
COMMENT ON TRIGGER off ON people IS 'sleeps';

-- An ALWAYS trigger fires in sessions of the replication role too: a load into
-- a table that has it already changes the rows.
CREATE TABLE always_touched (id integer, touched integer DEFAULT 0);
INSERT INTO always_touched SELECT n, 0 FROM generate_series(1, 5) AS n;
CREATE TRIGGER touch_always BEFORE INSERT ON always_touched FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE always_touched ENABLE ALWAYS TRIGGER touch_always;

-- Rules.
CREATE TABLE ruled (id integer PRIMARY KEY, t text);
INSERT INTO ruled VALUES (1, 'one'), (2, 'two');
CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO zoo_code.audit (what, n) VALUES (NEW.t, NEW.id);
CREATE RULE no_delete AS ON DELETE TO ruled WHERE OLD.id = 1 DO INSTEAD NOTHING;
CREATE RULE two AS ON UPDATE TO ruled DO ALSO (INSERT INTO zoo_code.audit (what) VALUES (E'\\;'); NOTIFY zoo);
CREATE RULE view_update AS ON UPDATE TO literal DO INSTEAD UPDATE zoo_code.ruled SET t = NEW.nasty WHERE id = NEW.n RETURNING t, id, t, NULL::integer[];
ALTER TABLE ruled DISABLE RULE two;
ALTER TABLE ruled ENABLE ALWAYS RULE no_delete;
COMMENT ON RULE also ON ruled IS 'twice';
CREATE TABLE swallowed (id integer);
INSERT INTO swallowed SELECT n FROM generate_series(1, 12) AS n;
CREATE RULE swallow AS ON INSERT TO swallowed DO INSTEAD NOTHING;

-- Row-level security.
ALTER TABLE people ENABLE ROW LEVEL SECURITY;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
CREATE POLICY everyone ON people FOR SELECT USING (true);
CREATE POLICY own ON people AS RESTRICTIVE FOR UPDATE TO zoo_reader, "Zoo Odd-Role" USING (name = CURRENT_USER) WITH CHECK (salary < 1000);
CREATE POLICY by_sub ON people FOR ALL TO zoo_owner USING (id IN (SELECT a.n FROM zoo_code.audit a)) WITH CHECK (true);
CREATE POLICY "Odd ""Policy""" ON people FOR INSERT TO CURRENT_USER WITH CHECK (E'\\' <> name);
COMMENT ON POLICY own ON people IS 'restricts';
CREATE TABLE forced_shut (id integer, t text);
INSERT INTO forced_shut VALUES (1, 'nobody sees'), (2, 'me');
ALTER TABLE forced_shut OWNER TO zoo_owner;
ALTER TABLE forced_shut ENABLE ROW LEVEL SECURITY;
ALTER TABLE forced_shut FORCE ROW LEVEL SECURITY;
CREATE TABLE policy_but_off (id integer);
CREATE POLICY p ON policy_but_off USING (id > 0);
RESET search_path;
