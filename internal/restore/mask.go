package restore

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// mask lets the statements of a data file, which name their schema, make
// another one: the staging schema. In the transaction of a statement the live
// schema is renamed away and the staging schema has its name; before the commit
// both get their own names back. No statement is rewritten, everything that
// PostgreSQL resolves is resolved as if the staging schema were the live one,
// and other sessions see nothing of it.
type mask struct {
	name    string // of the schema in the backup
	staging string
	hidden  string // what the live schema is called within the transaction
	live    bool   // there is a schema of that name to be hidden
	made    bool   // the staging schema exists
	peers   *peers
	// origin is what the label of the staging names as its backup. Empty: the id
	// of the backup.
	origin string
	// extensions are those in the live schema, for core alone.
	extensions []moving
}

// peers are masks that must be worn together, because the schemas refer to one
// another. Two sessions cannot rename one schema at the same time, so that
// whoever wears a mask of them holds the lock.
type peers struct {
	sync.Mutex
	masks []*mask
	turn  string // statements that wait for other processes with such masks; empty: there are none
}

// on is what stands before masked statements, off what stands behind them.
// Without a staging schema yet, the statements make it. A peer without one is
// hidden all the same: what refers to it has to wait, not to find the live one.
func (p *peers) on() string {
	var sql strings.Builder
	sql.WriteString(p.turn)
	for _, m := range p.masks {
		if m.live {
			sql.WriteString(rename(m.name, m.hidden))
		}
	}
	for _, m := range p.masks {
		if m.made {
			sql.WriteString(rename(m.staging, m.name))
			for _, x := range m.extensions {
				sql.WriteString(x.to(m.name))
			}
		}
	}
	return sql.String()
}

func (p *peers) off(makes *mask) string {
	var sql strings.Builder
	for _, m := range slices.Backward(p.masks) {
		if m.made || m == makes {
			for _, x := range m.extensions {
				sql.WriteString(x.to(m.hidden))
			}
			sql.WriteString(rename(m.name, m.staging))
		}
	}
	for _, m := range p.masks {
		if m.live {
			sql.WriteString(rename(m.hidden, m.name))
		}
	}
	return sql.String()
}

// reveal gives the staging schema its new name, and its comment by the name that
// it has in the backup.
func (m *mask) reveal(target, comment string) string {
	sql := m.peers.on() + comment
	if target != m.name {
		sql += rename(m.name, target)
	}
	if m.live {
		sql += rename(m.hidden, m.name)
	}
	return sql
}

func rename(from, to string) string {
	return "ALTER SCHEMA " + pg.Identifier(from) + " RENAME TO " + pg.Identifier(to) + ";\n"
}

// execSteps runs steps of one unit in one message, and so in one transaction.
func (s *session) execSteps(ctx context.Context, steps []step) error {
	var sql strings.Builder
	u := steps[0].unit
	if u.mask == nil || steps[0].inPlace {
		for _, st := range steps {
			sql.WriteString(st.sql)
		}
		return s.exec(ctx, sql.String())
	}
	p := u.mask.peers
	p.Lock()
	defer p.Unlock()
	var makes *mask
	sql.WriteString(p.on())
	for _, st := range steps {
		sql.WriteString(st.sql)
		if st.Kind == kindSchema && st.Tag == u.mask.name {
			makes = u.mask
		}
	}
	sql.WriteString(p.off(makes))
	err := s.exec(ctx, sql.String())
	if err == nil && makes != nil {
		makes.made = true
	}
	return err
}

// asLive gives the masked schema the name of the live one that it is to replace,
// where that is another, for a transaction that is rolled back.
func (u *unit) asLive() string {
	if u.live == nil || u.live.name == u.mask.name {
		return ""
	}
	return rename(u.live.name, ownName(u.live.name, "hidden", time.Time{}, 1)) + rename(u.mask.name, u.live.name)
}

// place is the name that a schema of the unit has at the moment, when no mask
// is worn.
func (u *unit) place(schema string) string {
	if u.inUse != nil && schema == manifest.CoreSchema {
		return u.inUse.staging
	}
	if u.mask != nil && schema == u.mask.name {
		return u.mask.staging
	}
	return schema
}

// swaps reports whether the unit takes the place of a live schema.
func (u *unit) swaps() bool { return u.live != nil }

// madeSchemas are the names, at the moment, of the schemas that the unit makes.
func (u *unit) madeSchemas() []string {
	names := make([]string, len(u.schemas))
	for i, name := range u.schemas {
		names[i] = u.place(name)
	}
	return names
}

// joinPeers puts masks together whose schemas refer to one another.
func (r *run) joinPeers() {
	byName := map[string]*mask{}
	for _, u := range r.units {
		if u.mask != nil {
			byName[u.mask.name] = u.mask
			u.mask.peers = &peers{masks: []*mask{u.mask}}
			if r.New {
				u.mask.peers.turn = pg.MaskTurn(u.mask.name, lockTimeout)
			}
		}
	}
	for _, u := range r.units {
		if u.mask == nil || u.file == nil {
			continue
		}
		for _, name := range u.requires().Schemas {
			other := byName[name]
			if other == nil || other.peers == u.mask.peers {
				continue
			}
			joined := &peers{masks: append(slices.Clone(u.mask.peers.masks), other.peers.masks...)}
			for _, m := range joined.masks {
				m.peers = joined
			}
		}
	}
}

func (u *unit) requires() datafile.Requires { return u.file.Index.Header.Requires }
