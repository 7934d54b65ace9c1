-- zoo_ext: a tenant that holds an extension, and uses others from elsewhere.
CREATE TABLE zoo_ext.users (
    id uuid DEFAULT extensions.uuid_generate_v4() PRIMARY KEY,
    email zoo_ext.citext UNIQUE,
    attributes extensions.hstore DEFAULT ''::extensions.hstore,
    place extensions.cube,
    where_ extensions.earth
);
INSERT INTO zoo_ext.users
    SELECT md5(n::text)::uuid, ('User' || n || '@Example.org')::zoo_ext.citext, extensions.hstore(ARRAY['a', n::text, E'b"\\', NULL]), extensions.cube(ARRAY[n, 1.5]), NULL
    FROM generate_series(1, 25) AS n;
CREATE INDEX users_attributes ON zoo_ext.users USING gin (attributes);
CREATE INDEX users_email_trgm ON zoo_ext.users USING gin ((email::text) public.gin_trgm_ops);
CREATE VIEW zoo_ext.same AS SELECT a.id FROM zoo_ext.users a JOIN zoo_ext.users b ON a.email OPERATOR(zoo_ext.=) b.email AND a.attributes OPERATOR(extensions.@>) b.attributes;
CREATE TABLE extensions.in_the_extension_schema (id integer PRIMARY KEY);
INSERT INTO extensions.in_the_extension_schema VALUES (1);
