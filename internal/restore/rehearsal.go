package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// locksPerTable is about how many locks it takes to make a table, with what
// belongs to it.
const locksPerTable = 16

// rehearse makes the definitions of the schemas that take the place of live
// ones, in transactions that are taken back, to find what of other schemas would
// not fit them, and who may use what. It is left out where nobody asks. What it
// cannot find out is found before the swap at the latest.
func (p *checker) rehearse(ctx context.Context) error {
	done := map[*peers]bool{}
	for _, u := range p.readable() {
		if !u.swaps() || u.objects != nil || done[u.mask.peers] {
			continue
		}
		done[u.mask.peers] = true
		asked, tables := p.DryRun || p.Preview, 0
		units := slices.DeleteFunc(p.readable(), func(o *unit) bool { return o.mask == nil || o.mask.peers != u.mask.peers })
		for _, u := range units {
			if u.live != nil && len(u.live.references) > 0 {
				asked = true
			}
			tables += len(u.file.Index.Tables)
		}
		if !asked || tables*locksPerTable > p.lockRoom() {
			continue
		}
		var err error
		for try := 1; ; try++ {
			err = p.rehearseOnce(ctx, units)
			if err == nil || !inTheWay(err) || try == removeTries || ctx.Err() != nil {
				break
			}
		}
		if err != nil && (ctx.Err() != nil || pg.Lost(err)) {
			return err
		}
		if err != nil && len(p.findings) == 0 {
			p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf("the definitions of the backup could not be tried beforehand: %v", err))
		}
	}
	return nil
}

func (p *checker) rehearseOnce(ctx context.Context, units []*unit) error {
	was := map[*unit]access{}
	for _, u := range units {
		if u.live == nil {
			continue
		}
		var err error
		if was[u], err = readAccess(ctx, p.main, u.live.oid); err != nil {
			return err
		}
	}
	var encoding string
	if err := p.main.QueryRow(ctx, `SHOW client_encoding`).Scan(&encoding); err != nil {
		return fmt.Errorf("read client_encoding: %w", err)
	}
	// A session of its own, since it gets the settings of the files.
	s, err := p.newSession(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(s.conn) // which rolls back
	if err := s.use(ctx, units[0]); err != nil {
		return err
	}
	if err := s.execTx(ctx, "BEGIN;"+units[0].mask.peers.on()); err != nil {
		return fmt.Errorf("try the definitions: %w", err)
	}
	var failed []failure
	for _, grants := range []bool{false, true} {
		var steps []step
		for _, u := range units {
			if u.mask.made {
				continue
			}
			own, err := p.rehearsed(ctx, u, grants)
			if err != nil {
				return err
			}
			steps = append(steps, own...)
		}
		if grants && !p.NoPrivileges {
			resets, err := privilegeResets(ctx, s.conn, namesOf(units), namesOf(units))
			if err != nil {
				return err
			}
			if err := s.execTx(ctx, strings.Join(resets, ";\n")); err != nil {
				return fmt.Errorf("try the definitions: %w", err)
			}
		}
		f, err := s.attempt(ctx, steps)
		if err != nil {
			return err
		}
		failed = append(failed, f...)
	}
	if len(failed) > 0 { // what one schema needs may have come after it
		again := make([]step, len(failed))
		for i, f := range failed {
			again[i] = f.step
		}
		if failed, err = s.attempt(ctx, again); err != nil {
			return err
		}
	}
	if err := s.execTx(ctx, "SET client_encoding = "+pg.Literal(encoding)); err != nil {
		return fmt.Errorf("set client_encoding: %w", err)
	}
	for _, u := range units {
		if u.live == nil {
			continue
		}
		if err := s.execTx(ctx, u.asLive()); err != nil {
			return fmt.Errorf("try the definitions: %w", err)
		}
		if err := p.judgeRehearsal(ctx, s.conn, u, was[u], len(failed) == 0); err != nil {
			return err
		}
	}
	return nil
}

// judgeRehearsal looks at what was made for one unit. Where not all of it could
// be made nothing is said of what is missing.
func (p *checker) judgeRehearsal(ctx context.Context, conn *pgx.Conn, u *unit, was access, whole bool) error {
	var made uint32
	if err := conn.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, u.live.name).Scan(&made); err != nil {
		return fmt.Errorf("look for schema %q: %w", u.live.name, err)
	}
	is, err := readAccess(ctx, conn, made)
	if err != nil {
		return err
	}
	p.plannedSchema(u).Access = was.changes(is, p.NoOwner, p.NoPrivileges)
	if !whole {
		return nil
	}
	misfits, err := pg.TryReferences(ctx, conn, u.live.references, made, ownName(u.target, "trial", p.Now(), 1))
	if err != nil {
		return err
	}
	for _, m := range misfits {
		p.find(p.misfit(u, m))
	}
	return nil
}

// rehearsed are the statements of a unit that make its objects, or grant rights
// on them. Foreign keys, which lock tables of other schemas, are left out.
func (r *run) rehearsed(ctx context.Context, u *unit, grants bool) ([]step, error) {
	x := u.file.Index
	phase := phasesOf(x)
	return u.steps(ctx, func(i int, st datafile.Statement) bool {
		if r.skipped(u, st) || isSchemaComment(st) || isMembership(st) {
			return false
		}
		switch x.Frames[st.Frame].Kind {
		case datafile.PreDataFrame:
			return !grants && !isLargeObject(st)
		case datafile.PostDataFrame:
			return grants == (phase[i] == phaseGrants) && phase[i] != phaseForeignKeys && phase[i] < phaseRefresh &&
				!(st.Kind == kindComment && strings.HasPrefix(st.Tag, kindConstraint+" "))
		}
		return false
	})
}

// namesOf are the names that the schemas of units have under the mask.
func namesOf(units []*unit) []string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.mask.name
	}
	return names
}

// misfit is the finding for what of another schema does not fit.
func (r *run) misfit(u *unit, m pg.Misfit) Finding {
	ref := m.Reference
	f := Finding{Tenant: u.entry.Tenant, Problem: m.String(), Err: m.Err}
	f.Remedy = ref.Drop + " before the restore, and make it again afterwards in a form that fits"
	if ref.Schema == "" || u.core || !r.backedUp(ref.Schema) {
		return f
	}
	f.Remedy += fmt.Sprintf("; or restore schema %q from the same backup together with this one", ref.Schema)
	return f
}

func (r *run) backedUp(schema string) bool {
	return slices.ContainsFunc(r.Manifest.Schemas, func(e manifest.Schema) bool { return e.Schema == schema })
}

// MisfitError says that a schema was not replaced, since what refers to it from
// other schemas does not fit the restored one.
type MisfitError struct {
	Schema   string
	Staged   string // where the restored one waits; empty: nowhere
	Findings []Finding
}

// Error lists what does not fit.
func (e *MisfitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "schema %q was not replaced: what refers to it does not fit", e.Schema)
	for i, f := range e.Findings {
		if i == shownFindings {
			fmt.Fprintf(&b, "\n- and %d more", len(e.Findings)-i)
			break
		}
		fmt.Fprintf(&b, "\n- %s\n  %s", f.Problem, f.Remedy)
	}
	return b.String()
}

// Hint says what to do.
func (e *MisfitError) Hint() string {
	if e.Staged == "" {
		return "do that and restore again"
	}
	return fmt.Sprintf("do that, and swap in what waits in schema %s with --resume", pg.Identifier(e.Staged))
}

// fits checks once more, with the schemas that are going live, that all that
// refers to the live ones can be made to point at them. It comes before the
// rollback point is made. references are those into the live schema of each.
func (r *run) fits(ctx context.Context, u *unit, references []pg.Reference) error {
	references = slices.DeleteFunc(references, func(ref pg.Reference) bool {
		return pg.IsOwn(ref.Schema) || r.together(u, ref.Schema) || u.objects != nil && isOfCore(ref)
	})
	if len(references) == 0 {
		return nil
	}
	var misfits []pg.Misfit
	note := func(text string) { r.Progress.Note(slog.LevelWarn, "", text) }
	err := untilFree(ctx, r.main, u.target, r.SwapTimeout, note, func() (err error) {
		tx, err := r.main.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
		if err != nil {
			return fmt.Errorf("try references: %w", err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		s := &session{run: r, conn: r.main}
		if err := s.execTx(ctx, u.mask.peers.on()+u.asLive()); err != nil {
			return fmt.Errorf("try references: %w", err)
		}
		var made uint32
		if err := tx.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, u.live.name).Scan(&made); err != nil {
			return fmt.Errorf("look for schema %q: %w", u.live.name, err)
		}
		misfits, err = pg.TryReferences(ctx, r.main, references, made, ownName(u.target, "trial", r.Now(), 1))
		return err
	})
	if err != nil || len(misfits) == 0 {
		if pg.Code(err) == pg.OutOfMemory {
			return nil // it is the swap that finds out
		}
		return err
	}
	e := &MisfitError{Schema: u.target, Staged: u.staged}
	for _, m := range misfits {
		e.Findings = append(e.Findings, r.misfit(u, m))
	}
	return e
}

// execTx runs statements within a transaction, once.
func (s *session) execTx(ctx context.Context, sql string) error {
	if sql == "" {
		return nil
	}
	_, err := s.conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// attempt runs steps within a transaction, which goes on without those that
// fail. Its error ends the transaction.
func (s *session) attempt(ctx context.Context, steps []step) (failed []failure, err error) {
	fatal := func(err error) bool {
		return s.broken(ctx, err) || inTheWay(err) || pg.Code(err) == pg.OutOfMemory
	}
	for len(steps) > 0 {
		batch := steps[:messageLength(steps)]
		steps = steps[len(batch):]
		var sql strings.Builder
		sql.WriteString("SAVEPOINT one;\n")
		for _, st := range batch {
			sql.WriteString(st.sql)
		}
		err := s.execTx(ctx, sql.String())
		if err == nil {
			continue
		}
		if fatal(err) {
			return nil, err
		}
		if err := s.execTx(ctx, "ROLLBACK TO one"); err != nil {
			return nil, err
		}
		for _, st := range batch {
			err := s.execTx(ctx, "SAVEPOINT one;\n"+st.sql)
			if err == nil {
				continue
			}
			if fatal(err) {
				return nil, err
			}
			failed = append(failed, failure{st, err})
			if err := s.execTx(ctx, "ROLLBACK TO one"); err != nil {
				return nil, errors.Join(err, failed[len(failed)-1].err)
			}
		}
	}
	return failed, nil
}
