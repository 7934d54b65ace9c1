-- Foreign servers, languages and the like, which belong to the database.
CREATE FOREIGN DATA WRAPPER "Zoo ""wrapper""" NO HANDLER VALIDATOR postgresql_fdw_validator;
CREATE FOREIGN DATA WRAPPER zoo_bare OPTIONS (debug 'it''s', "odd key" E'\\');
COMMENT ON FOREIGN DATA WRAPPER zoo_bare IS 'does nothing';
GRANT USAGE ON FOREIGN DATA WRAPPER zoo_bare TO zoo_reader;
CREATE SERVER zoo_remote TYPE 'pg' VERSION '15''s' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db.invalid', port '5432', dbname 'a "b" ''c'' \');
CREATE SERVER zoo_files FOREIGN DATA WRAPPER file_fdw;
CREATE SERVER "Zoo ""server"".x" FOREIGN DATA WRAPPER zoo_bare;
COMMENT ON SERVER zoo_remote IS 'another place';
GRANT USAGE ON FOREIGN SERVER zoo_remote TO zoo_reader WITH GRANT OPTION;
ALTER SERVER zoo_remote OWNER TO zoo_owner;
CREATE USER MAPPING FOR PUBLIC SERVER zoo_remote OPTIONS (user 'someone', password 'not a ''secret'' \');
CREATE USER MAPPING FOR zoo_owner SERVER zoo_remote OPTIONS (user 'owner');
CREATE USER MAPPING FOR "Zoo Odd-Role" SERVER "Zoo ""server"".x";

CREATE FUNCTION public.zoo_handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE FUNCTION public.zoo_validator(oid) RETURNS void LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_validator';
CREATE FUNCTION public.zoo_inline(internal) RETURNS void LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_inline_handler';
CREATE TRUSTED LANGUAGE zoo_language HANDLER public.zoo_handler INLINE public.zoo_inline VALIDATOR public.zoo_validator;
COMMENT ON LANGUAGE zoo_language IS 'PL/pgSQL under another name';
GRANT USAGE ON LANGUAGE zoo_language TO zoo_reader;
REVOKE USAGE ON LANGUAGE zoo_language FROM PUBLIC;
ALTER LANGUAGE zoo_language OWNER TO zoo_owner;
CREATE FUNCTION public.in_zoo_language() RETURNS integer LANGUAGE zoo_language AS 'BEGIN RETURN 42; END';

CREATE TRANSFORM FOR public.plan LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal));
COMMENT ON TRANSFORM FOR public.plan LANGUAGE sql IS 'changes nothing';
CREATE CAST (public.plan AS bytea) WITH INOUT;
CREATE CONVERSION public.core_conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;

CREATE ACCESS METHOD zoo_gist TYPE INDEX HANDLER gisthandler;
CREATE OPERATOR CLASS public.zoo_box_ops DEFAULT FOR TYPE box USING zoo_gist AS
    OPERATOR 1 <<, OPERATOR 2 &<, OPERATOR 3 &&, OPERATOR 4 &>, OPERATOR 5 >>, OPERATOR 6 ~=, OPERATOR 7 @>, OPERATOR 8 <@,
    FUNCTION 1 gist_box_consistent(internal, box, smallint, oid, internal), FUNCTION 2 gist_box_union(internal, internal),
    FUNCTION 5 gist_box_penalty(internal, internal, internal), FUNCTION 6 gist_box_picksplit(internal, internal), FUNCTION 7 gist_box_same(box, box, internal);
CREATE TABLE public.boxes (b box);
INSERT INTO public.boxes SELECT box(point(n, n), point(n + 1, n + 1)) FROM generate_series(1, 20) AS n;
CREATE INDEX boxes_b ON public.boxes USING zoo_gist (b);
