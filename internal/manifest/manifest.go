// Package manifest is the vocabulary of a backup: what a run saved, of which
// schemas, where the bytes are, and what they must look like when they come
// back. It reads and writes the JSON that makes a backup exist.
//
// Terms: a backup is one run at one snapshot; a schema entry is one data file;
// core is the public schema together with the database-level objects.
package manifest

import (
	"slices"
	"time"
)

// Format is the version of the manifest that this package writes. Manifests
// without a format field were written by the original system.
const Format = 1

// CoreTenant is the tenant name of the public schema and the database-level
// objects; CoreSchema is its schema.
const (
	CoreTenant = "core"
	CoreSchema = "public"
)

// Type is what kind of backup a run made.
type Type string

// The types of backup.
const (
	Full        Type = "full"
	Incremental Type = "incremental"
	Baseline    Type = "baseline"
)

// Retention says what retention_days of a backup mean.
type Retention string

// What retention_days mean. Where nothing is said the policy alone decides when
// a backup goes, and the days are only a note.
const (
	RetainExactly Retention = "exactly"  // it lives so many days, whatever the policy says; 0: without limit
	RetainAtLeast Retention = "at least" // the policy decides, but not before
)

// Manifest describes one backup. The first fields are those of the original
// system, under its names; the others are new.
type Manifest struct {
	Timestamp     Time     `json:"timestamp"`
	BackupType    Type     `json:"backup_type"`
	RetentionDays int      `json:"retention_days"`
	Compressed    bool     `json:"compressed"`
	IncludeMedia  bool     `json:"include_media"`
	Schemas       []Schema `json:"schemas"`

	Format      int       `json:"format,omitempty"`
	ID          string    `json:"id,omitempty"` // the time part of the manifest's file name
	Parent      string    `json:"parent,omitempty"`
	Retention   Retention `json:"retention,omitempty"`
	Compression string    `json:"compression,omitempty"` // as given to --compression, with its level
	Finished    time.Time `json:"finished,omitzero"`
	Tool        *Tool     `json:"tool,omitempty"`
	Database    *Database `json:"database,omitempty"`
	Snapshot    *Snapshot `json:"snapshot,omitempty"`
	Failures    []Failure `json:"failures,omitempty"`
	// LeftOut are the schemas that were in the database and that the run was not to
	// save. Nil: not known, as with backups of earlier versions; empty: it was to
	// save all.
	LeftOut []string `json:"left_out,omitzero"`
	// RollbackPoint says that the backup was made for a restore, which was going
	// to replace what it saves. Whether it did the repository knows.
	RollbackPoint bool `json:"rollback_point,omitempty"`
	// Rebuilt is when the manifest was rebuilt from the data files, because the
	// one of the run was lost; zero: it is that of the run.
	Rebuilt time.Time `json:"rebuilt,omitzero"`
	// Unreadable are data files that a rebuilt manifest keeps though not even
	// their schemas can be told: a person may save something of them.
	Unreadable []string `json:"unreadable,omitempty"`
}

// Partial reports whether the backup may lack schemas or files that it was to
// hold: some failed, or nobody knows, since its manifest was rebuilt from the data
// files that were left.
func (m *Manifest) Partial() bool {
	return len(m.Failures) > 0 || !m.Rebuilt.IsZero() ||
		slices.ContainsFunc(m.Schemas, func(s Schema) bool { return s.Media != nil && s.Media.Failed > 0 })
}

// Knows reports whether the backup tells what became of a schema at its moment: it
// was in the database, saved or not, or was not there. known is false where nobody
// wrote down what the backup was not to save.
func (m *Manifest) Knows(schema string) (there, known bool) {
	there = slices.Contains(m.LeftOut, schema) ||
		slices.ContainsFunc(m.Schemas, func(s Schema) bool { return s.Schema == schema }) ||
		slices.ContainsFunc(m.Failures, func(f Failure) bool { return f.Schema == schema })
	return there, there || m.LeftOut != nil && m.Rebuilt.IsZero()
}

// DefinitionsOnly reports whether the backup has no rows: what the original system
// calls incremental are changes of definitions.
func (m *Manifest) DefinitionsOnly() bool { return m.Format == 0 && m.BackupType == Incremental }

// Tool names the program that wrote a backup.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	PgDump  string `json:"pg_dump,omitempty"` // version of the pg_dump that gave the definitions
}

// Database is where a backup was taken.
type Database struct {
	Name             string `json:"name"`
	ServerVersion    string `json:"server_version"`     // as the server prints it
	ServerVersionNum int    `json:"server_version_num"` // 150020 for 15.20
	Encoding         string `json:"encoding"`
	Collate          string `json:"collate,omitempty"`
	Ctype            string `json:"ctype,omitempty"`
	SystemIdentifier string `json:"system_identifier,omitempty"` // empty where the role may not read it
}

// Snapshot is the moment that a backup, or a schema of it, shows.
type Snapshot struct {
	Time time.Time `json:"time"`
	LSN  string    `json:"lsn,omitempty"` // of the write-ahead log at or after the snapshot
	XID  string    `json:"xid,omitempty"` // pg_current_snapshot() in text form
	Mark *Mark     `json:"mark,omitempty"`
	Seal string    `json:"seal,omitempty"` // proof of the server's history, where there is no mark, which has one
	// Catalogs is the sum of the catalogs' state; see package pg.
	Catalogs string `json:"catalogs,omitempty"`
}

// Proof is the seal of the snapshot, its mark's or its own; empty where it has
// none.
func (s *Snapshot) Proof() string {
	switch {
	case s == nil:
		return ""
	case s.Mark != nil:
		return s.Mark.Seal
	default:
		return s.Seal
	}
}

// Mark is a moment in the write-ahead log from which on later backups can tell
// which blocks have changed; see package pg.
type Mark struct {
	Timeline uint32    `json:"timeline"`
	LSN      string    `json:"lsn"`
	XID      string    `json:"xid"`
	Started  time.Time `json:"server_started"`
	Seal     string    `json:"seal"`
}

// Schema is one schema of a backup and the data file that holds it.
type Schema struct {
	Schema   string `json:"schema"`
	Tenant   string `json:"tenant"`
	Filename string `json:"filename"`
	Filepath string `json:"filepath"` // relative to the repository, with slashes; absolute where the original system wrote it
	Size     int64  `json:"size"`
	Hash     string `json:"hash"` // "sha256:" and the hexadecimal digest of the whole file
	// IndexHash is the hash of what of the data file lies behind its frames: index and
	// trailer. As the index has the hashes of the frames, with it the parts of the file
	// can be checked one by one. Empty in manifests of before.
	IndexHash   string `json:"index_hash,omitempty"`
	MediaBackup string `json:"media_backup,omitempty"`
	Timestamp   string `json:"timestamp"` // YYYYMMDD_HHMMSS, UTC
	Type        Type   `json:"type"`

	Tables     int64     `json:"tables,omitempty"` // tables whose rows are in the file
	Rows       int64     `json:"rows,omitempty"`
	Bytes      int64     `json:"bytes,omitempty"`      // of COPY text, before compression
	Snapshot   *Snapshot `json:"snapshot,omitempty"`   // where this schema had to be taken again, later than the backup's own moment
	References []string  `json:"references,omitempty"` // files of earlier backups that this entry needs besides its own

	// Definitions and Content tell whether the schema looks as it did: a
	// fingerprint of what its definitions are made from, and a digest of its
	// rows and sequences. Empty where they are not known.
	Definitions string `json:"definitions,omitempty"`
	Content     string `json:"content,omitempty"`
	// Uses are the other tenants' schemas that its definitions name.
	Uses []string `json:"uses,omitempty"`

	// Media is what was saved of its files. Nil: there were none, or the backup is
	// one without.
	Media *Media `json:"media,omitempty"`
}

// Media describes the archive that MediaBackup of an entry names. Without that
// none could be made.
type Media struct {
	Backup string `json:"backup,omitempty"` // id of the backup that wrote the archive
	Size   int64  `json:"size"`
	Hash   string `json:"hash,omitempty"` // as that of a data file
	Files  int64  `json:"files"`          // that it lists, hard links among them
	Bytes  int64  `json:"bytes"`          // of these files, stored in this archive or an earlier one
	// References are archives of earlier backups that hold contents of files.
	References []string `json:"references,omitempty"`
	// Failures are files that could not be saved, the first of them by name, of so
	// many in Failed.
	Failures []string `json:"failures,omitempty"`
	Failed   int64    `json:"failed,omitempty"`
}

// IsCore reports whether the entry is the core rather than a tenant.
func (s Schema) IsCore() bool { return s.Schema == CoreSchema }

// Failure is a schema that a run could not save.
type Failure struct {
	Schema string `json:"schema"`
	Tenant string `json:"tenant"`
	Error  string `json:"error"`
	File   string `json:"file,omitempty"` // of a rebuilt manifest: the data file, which is damaged and is kept all the same
}

// Table says what a table's rows in a data file are.
type Table struct {
	Schema   string    `json:"schema,omitempty"` // empty: the schema of the data file
	Name     string    `json:"name"`
	Columns  []string  `json:"columns"`
	Rows     int64     `json:"rows"`
	Bytes    int64     `json:"bytes"`    // of COPY text
	Checksum string    `json:"checksum"` // see package rowsum
	Segments []Segment `json:"segments,omitempty"`
	// Heap is where the server stored the rows, where a later backup can tell
	// from it that they have not changed.
	Heap *Heap `json:"heap,omitempty"`
	// Condition limits the rows, for configuration tables of extensions:
	// what the extension gave pg_extension_config_dump, a WHERE clause.
	Condition string `json:"condition,omitempty"`
}

// Heap identifies the file that holds a table's rows in the database, and what
// their text depends on besides; see package pg. It can be compared with ==.
type Heap struct {
	Database   uint32 `json:"database"`   // OID
	Tablespace uint32 `json:"tablespace"` // OID
	Filenode   uint32 `json:"filenode"`
	Form       string `json:"form"` // digest of columns and types
}

// Segment is the rows of one table in one range of heap blocks.
type Segment struct {
	FirstBlock int64   `json:"first,omitempty"` // first heap block
	EndBlock   int64   `json:"end,omitempty"`   // block after the last one; 0: to the end of the table
	Rows       int64   `json:"rows"`
	Bytes      int64   `json:"bytes"`
	Hash       string  `json:"hash"`          // sha256 of the segment's COPY text, hexadecimal
	Checksum   string  `json:"sum,omitempty"` // of its rows, where it is not the whole table
	Pieces     []Piece `json:"at,omitempty"`  // where the rows lie, in order
}

// Piece is a run of rows inside one frame of a data file.
type Piece struct {
	Frame  int   `json:"f"` // number of the frame in the file's index
	Offset int64 `json:"o"` // of the first row's first byte in the decompressed frame
	Bytes  int64 `json:"n"` // of COPY text, the last row's newline included
	Rows   int64 `json:"r"`
}
