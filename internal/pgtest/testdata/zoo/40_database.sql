-- What belongs to the database and looks into all schemas.
CREATE PUBLICATION zoo_tables_pub FOR TABLE zoo_code.people, zoo_tables.events, ONLY zoo_tables.animals, acme.acme WITH (publish_via_partition_root = true);
CREATE PUBLICATION "Zoo ""all"" 😀" FOR ALL TABLES WITH (publish = 'insert');
CREATE PUBLICATION zoo_nothing;
ALTER PUBLICATION zoo_tables_pub OWNER TO zoo_owner;
COMMENT ON PUBLICATION zoo_tables_pub IS 'for the warehouse';

-- An event trigger that exists too early in a restore of core writes rows that
-- the source has not. No tenant has what it listens to.
CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.event_log SELECT tg_tag, object_identity FROM pg_catalog.pg_event_trigger_ddl_commands();
END
$$;
CREATE FUNCTION public.refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '% is refused', tg_tag; END $$;
CREATE EVENT TRIGGER zoo_log ON ddl_command_end WHEN TAG IN ('CREATE SERVER', 'CREATE LANGUAGE') EXECUTE FUNCTION public.log_ddl();
CREATE EVENT TRIGGER zoo_off ON ddl_command_start EXECUTE FUNCTION public.refuse_ddl();
ALTER EVENT TRIGGER zoo_off DISABLE;
CREATE EVENT TRIGGER zoo_replica ON sql_drop WHEN TAG IN ('DROP ACCESS METHOD') EXECUTE FUNCTION public.refuse_ddl();
ALTER EVENT TRIGGER zoo_replica ENABLE REPLICA;
CREATE EVENT TRIGGER "Zoo ""always""" ON table_rewrite WHEN TAG IN ('ALTER TYPE') EXECUTE FUNCTION public.refuse_ddl();
ALTER EVENT TRIGGER "Zoo ""always""" ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER zoo_log IS 'keeps a log';

-- Large objects.
SELECT lo_from_bytea(4200001, decode(repeat('00ff5c0a', 5000), 'hex')), lo_from_bytea(4200002, ''), lo_create(4200003),
       lo_from_bytea(4200004, decode(left(repeat(md5('lo'), :big / 64 + 1), (:big / 8) * 2), 'hex'));
SELECT lo_put(4200003, 70000, 'after a hole');
ALTER LARGE OBJECT 4200001 OWNER TO zoo_owner;
GRANT SELECT ON LARGE OBJECT 4200001 TO zoo_reader;
GRANT SELECT, UPDATE ON LARGE OBJECT 4200002 TO "Zoo Odd-Role" WITH GRANT OPTION;
COMMENT ON LARGE OBJECT 4200003 IS E'mostly\nnothing';
ALTER LARGE OBJECT 4200004 OWNER TO "Zoo Odd-Role";
REVOKE ALL ON LARGE OBJECT 4200004 FROM "Zoo Odd-Role";

-- The values that statistics and hint bits would have after a while.
ANALYZE public.accounts, zoo_keys.items;
