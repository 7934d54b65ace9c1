-- zoo_links and zoo_links_b: what ties schemas together. A restore of one of
-- these alone cannot bring back what others had in it.
CREATE SCHEMA zoo_links;
CREATE SCHEMA zoo_links_b;
CREATE TYPE zoo_links.money_pair AS (amount numeric, currency char(3));
CREATE TYPE zoo_links.state AS ENUM ('open', 'closed');
CREATE TABLE zoo_links.wallets (id integer PRIMARY KEY, account_id bigint NOT NULL REFERENCES public.accounts (id), held zoo_links.money_pair, state zoo_links.state DEFAULT 'open');
CREATE TABLE zoo_links_b.transfers (
    id integer PRIMARY KEY, wallet_id integer REFERENCES zoo_links.wallets (id), amount zoo_links.money_pair, state zoo_links.state DEFAULT 'open'
);
INSERT INTO zoo_links.wallets SELECT n, 1000 + n * 10, ROW (n * 10, 'CHF')::zoo_links.money_pair FROM generate_series(1, 20) AS n;
INSERT INTO zoo_links_b.transfers SELECT n, n, ROW (n, 'EUR')::zoo_links.money_pair, 'closed' FROM generate_series(1, 20) AS n;
-- Circular between two tenants.
ALTER TABLE zoo_links.wallets ADD COLUMN last_transfer integer CONSTRAINT last_transfer REFERENCES zoo_links_b.transfers (id) DEFERRABLE;
UPDATE zoo_links.wallets SET last_transfer = id;
-- From core to a tenant.
CREATE TABLE public.wallet_index (wallet_id integer PRIMARY KEY REFERENCES zoo_links.wallets (id) ON DELETE CASCADE, state zoo_links.state);
INSERT INTO public.wallet_index SELECT id, state FROM zoo_links.wallets;
CREATE VIEW public.all_wallets AS SELECT w.id, w.held, a.slug FROM zoo_links.wallets w JOIN public.accounts a ON a.id = w.account_id;
CREATE VIEW zoo_links_b.seen AS SELECT t.id, w.held FROM zoo_links_b.transfers t JOIN public.all_wallets w ON w.id = t.wallet_id;
CREATE MATERIALIZED VIEW zoo_links.totals AS SELECT count(*) AS n FROM zoo_links_b.seen;
CREATE FUNCTION public.money_text(zoo_links.money_pair) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.amount || ' ' || $1.currency $$;
CREATE CAST (zoo_links.money_pair AS text) WITH FUNCTION public.money_text(zoo_links.money_pair);
CREATE FUNCTION public.wallets_of(bigint) RETURNS SETOF zoo_links.wallets LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM zoo_links.wallets WHERE account_id = $1; END;
CREATE FUNCTION zoo_links_b.on_wallet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER from_b AFTER INSERT ON zoo_links.wallets FOR EACH ROW EXECUTE FUNCTION zoo_links_b.on_wallet();
CREATE SEQUENCE zoo_links.shared_seq;
SELECT nextval('zoo_links.shared_seq');
CREATE TABLE zoo_links_b.numbered (id bigint DEFAULT nextval('zoo_links.shared_seq'));
INSERT INTO zoo_links_b.numbered DEFAULT VALUES;
CREATE TABLE zoo_links.base (id integer, t text);
CREATE TABLE zoo_links_b.derived (extra text) INHERITS (zoo_links.base);
INSERT INTO zoo_links.base VALUES (1, 'base');
INSERT INTO zoo_links_b.derived VALUES (2, 'derived', 'more');
CREATE TABLE public.partitioned_by_tenant (tenant text, n integer) PARTITION BY LIST (tenant);
CREATE TABLE zoo_links.core_part PARTITION OF public.partitioned_by_tenant FOR VALUES IN ('zoo_links');
CREATE TABLE zoo_links_b.core_part PARTITION OF public.partitioned_by_tenant FOR VALUES IN ('zoo_links_b');
INSERT INTO public.partitioned_by_tenant SELECT 'zoo_links' || CASE WHEN n % 2 = 0 THEN '_b' ELSE '' END, n FROM generate_series(1, 10) AS n;
CREATE INDEX by_n ON public.partitioned_by_tenant (n);
CREATE RULE copy_out AS ON INSERT TO zoo_links.base DO ALSO INSERT INTO zoo_links_b.derived VALUES (NEW.id, NEW.t);
