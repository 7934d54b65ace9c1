-- zoo_keys: indexes, constraints, statistics.
CREATE SCHEMA zoo_keys AUTHORIZATION "Zoo Odd-Role";
SET search_path = zoo_keys;
CREATE FUNCTION clean(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT pg_catalog.lower(pg_catalog.btrim($1)) $$;

CREATE TABLE items (
    id integer CONSTRAINT "Items PK" PRIMARY KEY,
    code text NOT NULL, parent_id integer, country char(2), owner_id bigint,
    tags text[] DEFAULT '{}', data jsonb, at timestamptz, price numeric, during tstzrange, spot point, ip inet, words tsvector,
    CONSTRAINT code_unique UNIQUE (code) INCLUDE (price) WITH (fillfactor = 80),
    CONSTRAINT pair UNIQUE (parent_id, code) DEFERRABLE INITIALLY IMMEDIATE,
    CONSTRAINT price_sane CHECK (price IS NULL OR price >= 0),
    CONSTRAINT "odd ""check"" name" CHECK (code <> E'\\' AND zoo_keys.clean(code) <> ''),
    CONSTRAINT parent FOREIGN KEY (parent_id) REFERENCES zoo_keys.items (id) ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO items
    SELECT n, 'Code ' || n, NULLIF(n / 2, 0), (ARRAY['ch', 'de', NULL])[1 + n % 3], NULL, ARRAY['t' || n % 4, NULL], jsonb_build_object('k', n),
           '2024-01-01 00:00:00+00'::timestamptz + n * interval '1 day', n / 4.0, tstzrange('2024-01-01 00:00:00+00'::timestamptz + n * interval '1 day', '2024-01-02 00:00:00+00'::timestamptz + n * interval '1 day'),
           point(n, -n), ('10.0.0.' || n % 250)::inet, to_tsvector('simple', 'word' || n)
    FROM generate_series(1, 300) AS n;
CREATE INDEX plain ON items (at DESC NULLS LAST, price ASC NULLS FIRST);
CREATE INDEX partial ON items (owner_id) WHERE price > 10 AND code LIKE 'Code%';
CREATE UNIQUE INDEX expression ON items (zoo_keys.clean(code), (data ->> 'k'));
CREATE INDEX covering ON items (country) INCLUDE (code, price);
CREATE INDEX classes ON items (code text_pattern_ops, country bpchar_pattern_ops);
CREATE INDEX collated ON items (code COLLATE "und-x-icu");
CREATE INDEX by_hash ON items USING hash (code);
CREATE INDEX tags_gin ON items USING gin (tags) WITH (fastupdate = off, gin_pending_list_limit = 128);
CREATE INDEX data_gin ON items USING gin (data jsonb_path_ops);
CREATE INDEX trgm ON items USING gist (code public.gist_trgm_ops (siglen = 32));
CREATE INDEX during_gist ON items USING gist (during, spot) WITH (buffering = on);
CREATE INDEX spot_spgist ON items USING spgist (spot);
CREATE INDEX ip_spgist ON items USING spgist (ip inet_ops);
CREATE INDEX at_brin ON items USING brin (at timestamptz_minmax_multi_ops (values_per_range = 16), id) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX words_gin ON items USING gin (words);
CREATE INDEX "Odd ""Index"".name$\ 😀" ON items (id, code);
COMMENT ON INDEX partial IS 'some of them';
COMMENT ON CONSTRAINT price_sane ON items IS 'no debts';
COMMENT ON CONSTRAINT code_unique ON items IS 'index too';
COMMENT ON INDEX code_unique IS 'the index of the constraint';
ALTER TABLE items CLUSTER ON plain;

CREATE TABLE bookings (
    room integer, during tsrange, cancelled boolean DEFAULT false, area circle,
    CONSTRAINT no_overlap EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (NOT cancelled),
    CONSTRAINT no_overlap_later EXCLUDE USING gist (area WITH &&) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT hashed EXCLUDE USING hash (room WITH =) WHERE (room > 1000)
);
INSERT INTO bookings SELECT n % 5, tsrange('2024-01-01'::timestamp + n * interval '1 hour', '2024-01-01'::timestamp + (n + 1) * interval '1 hour'), false, circle(point(n * 10, 0), 1) FROM generate_series(1, 40) AS n;
INSERT INTO bookings VALUES (1, '[2024-01-01,2025-01-01)', true, NULL);

-- Not valid, with rows that break it.
CREATE TABLE sloppy (id integer PRIMARY KEY, item_id integer, n integer);
INSERT INTO sloppy VALUES (1, 1, 1), (2, 999999, -1);
ALTER TABLE sloppy ADD CONSTRAINT dangling FOREIGN KEY (item_id) REFERENCES items (id) NOT VALID;
ALTER TABLE sloppy ADD CONSTRAINT negative CHECK (n > 0) NOT VALID;
ALTER TABLE sloppy ADD CONSTRAINT n_id CHECK (n <= id);

-- Circular.
CREATE TABLE hens (id integer PRIMARY KEY, egg_id integer NOT NULL);
CREATE TABLE eggs (id integer PRIMARY KEY, hen_id integer NOT NULL REFERENCES hens (id) DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO hens SELECT n, n FROM generate_series(1, 10) AS n;
INSERT INTO eggs SELECT n, n FROM generate_series(1, 10) AS n;
COMMIT;
ALTER TABLE hens ADD CONSTRAINT from_egg FOREIGN KEY (egg_id) REFERENCES eggs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;

-- Match full, composite, to a unique index, defaults; to core.
CREATE TABLE lines (
    item_parent integer, item_code text, country char(2) DEFAULT 'ch' REFERENCES public.countries (code) ON DELETE SET DEFAULT,
    account_id bigint REFERENCES public.accounts (id) ON UPDATE RESTRICT,
    code text REFERENCES items (code),
    n integer
);
INSERT INTO lines (item_parent, item_code, account_id, code, n) SELECT parent_id, code, 1000 + (id % 60) * 10, code, id FROM items;
CREATE TABLE full_match (a integer, b integer, PRIMARY KEY (b, a));
CREATE TABLE full_match_child (x integer, y integer, FOREIGN KEY (y, x) REFERENCES full_match (b, a) MATCH FULL);
INSERT INTO full_match VALUES (1, 2);
INSERT INTO full_match_child VALUES (1, 2), (NULL, NULL);

-- A unique index promoted to a constraint under another name.
CREATE TABLE promoted (a integer NOT NULL, b text COLLATE "C");
CREATE UNIQUE INDEX promoted_idx ON promoted (a);
ALTER TABLE promoted ADD CONSTRAINT promoted_pk PRIMARY KEY USING INDEX promoted_idx;

CREATE STATISTICS item_stats (ndistinct, dependencies) ON country, price FROM items;
CREATE STATISTICS "Odd ""stats""" (mcv) ON code, country, parent_id FROM items;
CREATE STATISTICS expr_stats ON (zoo_keys.clean(code)), (price * 2) FROM items;
ALTER STATISTICS item_stats SET STATISTICS 1000;
COMMENT ON STATISTICS item_stats IS 'what goes together';
ALTER STATISTICS expr_stats OWNER TO zoo_owner;
ALTER TABLE items OWNER TO zoo_owner;
RESET search_path;
