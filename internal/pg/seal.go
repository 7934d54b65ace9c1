package pg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// sealBits is how many coins are tossed for a seal. A server with another
// history passes for this one once in 2^32 times.
const sealBits = 32

// MakeSeal makes transactions that commit ("+id") or abort ("-id") by the toss of
// a coin. A server on which they ended in the same way has in its past all that a
// snapshot saw that was exported before. It is to be called on a session without
// a transaction, and cannot be on a standby. The transactions write nothing and
// wait for nothing.
func MakeSeal(ctx context.Context, conn *pgx.Conn) (string, error) {
	if conn.PgConn().TxStatus() != 'I' {
		return "", errors.New("make a seal: the session is in a transaction")
	}
	coins := make([]byte, sealBits)
	if _, err := rand.Read(coins); err != nil {
		return "", fmt.Errorf("make a seal: %w", err)
	}
	var sql strings.Builder
	for _, coin := range coins {
		sign, end := "+", "COMMIT"
		if coin&1 == 1 {
			sign, end = "-", "ROLLBACK"
		}
		fmt.Fprintf(&sql, "BEGIN; SELECT '%s' || pg_catalog.pg_current_xact_id()::text; %s;", sign, end)
	}
	results, err := conn.PgConn().Exec(ctx, sql.String()).ReadAll()
	if err != nil {
		// The session goes on without the transaction that was begun.
		_, failure := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll()
		return "", errors.Join(fmt.Errorf("make a seal: %w", err), failure)
	}
	var seal []string
	for _, r := range results {
		for _, row := range r.Rows {
			seal = append(seal, string(row[0]))
		}
	}
	return strings.Join(seal, " "), nil
}

// CheckSeal tells whether a seal was made in the past of the server that runs
// now. Where that is in doubt there is a reason.
func CheckSeal(ctx context.Context, q Querier, seal string) (reason string, err error) {
	var ids []string
	var committed []bool
	for token := range strings.FieldsSeq(seal) {
		if _, err := strconv.ParseUint(token[1:], 10, 64); err != nil || token[0] != '+' && token[0] != '-' {
			return "the seal of the earlier backup cannot be read", nil
		}
		ids, committed = append(ids, token[1:]), append(committed, token[0] == '+')
	}
	if len(ids) < sealBits {
		return "the earlier backup has no seal", nil
	}
	var same bool
	err = q.QueryRow(ctx, `
		SELECT coalesce(bool_and(CASE
			WHEN s.id::xid8 >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) THEN false -- pg_xact_status refuses what is yet to come
			ELSE coalesce(pg_catalog.pg_xact_status(s.id::xid8) = CASE WHEN s.committed THEN 'committed' ELSE 'aborted' END, false)
			END), false)
		FROM unnest($1::text[], $2::bool[]) AS s(id, committed)`, ids, committed).Scan(&same)
	if err != nil {
		return doubt(ctx, fmt.Errorf("compare transactions with those of the earlier backup: %w", err))
	}
	if !same {
		return "the server does not know the transactions of the earlier backup: it was put back to another state, or they are too long ago", nil
	}
	return "", nil
}
