package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// marksAtOnce is how many marks one transaction takes off: as many as fit the
// lock table, so that usually all tenants appear at once.
const marksAtOnce = 1000

// finish takes the marks off. With that the schemas are restored: the commit
// waits until everything before it is safe on the server's disk.
func (r *run) finish(ctx context.Context) error {
	if r.coreIsInUse() { // first: what else is restored may need its rows
		if err := r.swapCore(ctx); err != nil {
			return err
		}
	}
	s := &session{run: r, conn: r.main}
	if err := s.set(ctx); err != nil {
		return err
	}
	if err := s.exec(ctx, "RESET synchronous_commit"); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	for _, u := range r.alive() {
		if r.New && !r.Incomplete && len(u.problems) > 0 {
			u.fail(&IncompleteError{Schema: u.target, New: true, Problems: u.problems})
		}
	}
	alive := r.alive()
	r.commentPublic(ctx, s)
	alive = slices.DeleteFunc(alive, func(u *unit) bool { return u.swaps() || u.inUse != nil })
	for _, u := range alive {
		if err := r.placeFree(u); err != nil {
			u.fail(fmt.Errorf("put its files in place: %w", err))
		}
	}
	alive = slices.DeleteFunc(alive, (*unit).failed)
	for _, u := range alive {
		if len(r.registration(u)) == 0 {
			continue
		}
		err := r.finishRegistered(ctx, u, r.appear(u))
		switch {
		case err == nil:
			u.finished = true
			r.confirmFree(u)
		case ctx.Err() != nil || pg.Lost(err):
			return err
		default:
			u.fail(err)
		}
	}
	alive = slices.DeleteFunc(alive, func(u *unit) bool { return len(r.registration(u)) > 0 })
	for units := range slices.Chunk(alive, marksAtOnce) {
		var sql strings.Builder
		for _, u := range units {
			sql.WriteString(r.appear(u))
		}
		if err := r.reveal(ctx, s, sql.String()); err != nil {
			if r.Appear != nil {
				return err
			}
			return fmt.Errorf("finish: %w", err)
		}
		for _, u := range units {
			u.finished = true
			r.confirmFree(u)
		}
	}
	return nil
}

// reveal runs the statements by which schemas appear, and Appear in the same
// transaction.
func (r *run) reveal(ctx context.Context, s *session, sql string) error {
	if r.Appear == nil {
		return s.exec(ctx, sql)
	}
	for try := 1; ; try++ {
		err := r.revealOnce(ctx, s, sql)
		if err == nil || !inTheWay(err) || try == lockTries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Duration(try)*lockPause, lockPauseMax)):
		}
	}
}

func (r *run) revealOnce(ctx context.Context, s *session, sql string) (err error) {
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_ = tx.Rollback(ctx) // err says more
		}
	}()
	if err := s.execTx(ctx, sql); err != nil {
		return err
	}
	if err := r.Appear(ctx, s.conn); err != nil {
		return err
	}
	return tx.Commit(context.WithoutCancel(ctx))
}

// appear is the statements that take the marks off what a unit made.
func (r *run) appear(u *unit) string {
	var sql strings.Builder
	if u.mask != nil {
		sql.WriteString(u.mask.reveal(u.target, u.ownComment(u.mask.name, "")))
		if u.kept != nil && pg.IsOwn(u.target) {
			sql.WriteString(commentSQL(u.target, label{State: stateRecovered, Schema: u.mask.name, Backup: r.Manifest.ID, At: r.Now()}.String()))
		}
		return sql.String()
	}
	for _, name := range u.schemas {
		if !u.present[name] {
			sql.WriteString(u.ownComment(name, ""))
		}
	}
	if u.core && !r.unmarked {
		sql.WriteString(u.ownComment(manifest.CoreSchema, publicComment))
	}
	return sql.String()
}

// commentPublic gives schema public its comment where the role could not mark
// it and probably cannot do this either.
func (r *run) commentPublic(ctx context.Context, s *session) {
	if r.core == nil || !r.unmarked || r.core.comments[manifest.CoreSchema] == "" {
		return
	}
	sql := r.core.comments[manifest.CoreSchema]
	if err := s.exec(ctx, sql); err != nil {
		r.core.problem(Problem{Kind: kindComment, Object: "SCHEMA public", Err: err, Remedy: remedy(kindComment, err), SQL: sql})
	}
}

// ownComment is the statement that gives a schema its comment: that of the
// file, which pg_dump leaves out where it is the standard one.
func (u *unit) ownComment(schema, standard string) string {
	if sql, ok := u.comments[schema]; ok {
		return sql
	}
	return commentSQL(schema, standard)
}
