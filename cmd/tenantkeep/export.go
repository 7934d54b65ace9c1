package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// ExportOptions are the flags of the command export.
type ExportOptions struct {
	Schema   string
	Manifest string
	Latest   bool
	At       string
	Output   string
	Format   string
}

// AddFlags adds the flags.
func (o *ExportOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Schema, "schema", "", "the schema or tenant `NAME` to export; core for what tenants share")
	flags.StringVar(&o.Manifest, "manifest", "", "from this backup: its id, or the `PATH` of its manifest")
	flags.BoolVar(&o.Latest, "latest", false, "from the newest backup that holds the schema")
	flags.StringVar(&o.At, "at", "", "from the newest backup taken at this `TIME` or before")
	flags.StringVarP(&o.Output, "output", "o", "", "write to this `FILE`, which must not exist; - is standard output (default)")
	flags.StringVar(&o.Format, "format", "", "`FORM` of the script: sql, zst, gz (default by the name of the file; sql on standard output)")
}

func newExportCommand(a *app) *cobra.Command {
	var opts ExportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a tenant of a backup as one SQL script",
		Long: `Write one schema of a backup, full or incremental, as one self-contained SQL
script: for psql, for an auditor, for a customer who leaves.

What is stored is checked while it is read. Frames that are compressed as asked
for are taken as they are, which is as fast as copying a file.

Load it with: psql -v ON_ERROR_STOP=1 -f FILE, decompressed by zstdcat or zcat.`,
		Example: `  tenantkeep export --schema customer_a --latest -o customer_a.sql.zst
  tenantkeep export --schema customer_a --at 2026-11-20 | psql -v ON_ERROR_STOP=1 other
  tenantkeep export --schema core --manifest 20261123_000001 --format gz > core.sql.gz`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if opts.Output == "-" { // as many tools call standard output
				opts.Output = ""
			}
			return runExport(cmd.Context(), a, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), "time-zone")
	return cmd
}

func runExport(ctx context.Context, a *app, cfg *config.Config, opts ExportOptions) error {
	if opts.Schema == "" {
		return &usageError{err: errors.New("nothing says what to export"), hint: "give --schema; tenantkeep list shows what backups hold"}
	}
	if opts.Manifest == "" && opts.At == "" && !opts.Latest {
		return &usageError{
			err:  errors.New("nothing says which backup to export from"),
			hint: "give --latest, --at with a time, or --manifest with the id of a backup; tenantkeep list shows them",
		}
	}
	compression, err := exportFormat(opts)
	if err != nil {
		return err
	}
	if opts.Output == "" && compression.Algorithm != datafile.None && ui.IsTerminal(a.stdout) {
		return &usageError{err: errors.New("a compressed script is nothing for a terminal"), hint: "give --output FILE, or send it to a program"}
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	if target, err := server(cfg); err == nil {
		places[0].Database = target.Database()
	}
	from, backup, err := a.findBackup(ctx, places, wanted{Manifest: opts.Manifest, Latest: opts.Latest, At: opts.At, Schemas: []string{opts.Schema}})
	if err != nil {
		return err
	}
	ctx, unlock, err := a.shareRepository(ctx, from.Repo, "export")
	if err != nil {
		return err
	}
	defer unlock() //nolint:errcheck // it was only read
	entry, err := entryNamed(backup, opts.Schema)
	if err != nil {
		return err
	}
	if err := from.Repo.CheckData(ctx, backup.Manifest, entry, nil); err != nil {
		return err
	}
	join, closeFile, err := exporter(ctx, from.Repo, backup, entry, compression)
	if err != nil {
		return err
	}
	defer closeFile() //nolint:errcheck // it was only read
	if opts.Output == "" {
		return join(a.stdout)
	}
	if err := writeNew(opts.Output, join); err != nil {
		return err
	}
	if backup.Manifest.Format == 0 {
		a.ui().Printf("Exported %s of backup %s, as pg_dump wrote it.", ui.Safe(entry.Tenant), backup.ID)
		return nil
	}
	a.ui().Printf("Exported %s of backup %s: %s, %s.", ui.Safe(entry.Tenant), backup.ID, ui.Plural(entry.Tables, "table"), ui.Plural(entry.Rows, "row"))
	return nil
}

// exporter returns what writes an entry of a backup as a script.
func exporter(ctx context.Context, from *repo.Repo, b repo.Backup, entry manifest.Schema, compression datafile.Compression) (write func(io.Writer) error, closer func() error, err error) {
	fail := func(err error) error {
		if err != nil {
			return fmt.Errorf("export %s of backup %s: %w", entry.Schema, b.ID, err)
		}
		return nil
	}
	if b.Manifest.Format == 0 {
		object, err := from.OpenData(ctx, b.Manifest, entry)
		if err != nil {
			return nil, nil, err
		}
		return func(w io.Writer) error { return fail(copyDump(ctx, w, object, compression)) }, object.Close, nil
	}
	file, err := from.OpenFile(ctx, b.Manifest, entry)
	if err != nil {
		return nil, nil, err
	}
	return func(w io.Writer) error {
		_, err := datafile.Join(file.File, &interruptible{ctx, w}, compression)
		return fail(err)
	}, file.Close, nil
}

// copyDump writes a dump of the original system, which is whole or not written at
// all.
func copyDump(ctx context.Context, w io.Writer, dump storage.Object, c datafile.Compression) error {
	source := func() io.Reader { return io.NewSectionReader(dump, 0, dump.Size()) }
	script, err := plainsql.Open(source(), plainsql.ReaderOptions{})
	if err != nil {
		return err
	}
	defer script.Close()
	if _, err := plainsql.Scan(ctx, script.Reader, nil); err != nil {
		return err
	}
	head := make([]byte, 4)
	n, _ := dump.ReadAt(head, 0) // it has been read to its end
	stored := datafile.Detect(head[:n])
	in, out := source(), io.WriteCloser(nopCloser{&interruptible{ctx, w}})
	if stored != c.Algorithm {
		if stored == datafile.Gzip {
			if in, err = gzip.NewReader(in); err != nil {
				return err
			}
		}
		switch c.Algorithm {
		case datafile.Gzip:
			out = gzip.NewWriter(out)
		case datafile.Zstd:
			if out, err = zstd.NewWriter(out); err != nil {
				return err
			}
		}
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// nopCloser is a writer that stays open.
type nopCloser struct{ io.Writer }

// Close does nothing.
func (nopCloser) Close() error { return nil }

// exportFormat is how the script is to be compressed.
func exportFormat(opts ExportOptions) (datafile.Compression, error) {
	form := opts.Format
	if form == "" {
		form = "sql"
		if ext := strings.TrimPrefix(filepath.Ext(opts.Output), "."); ext == "zst" || ext == "gz" {
			form = ext
		}
	}
	switch form {
	case "sql":
		return datafile.Compression{Algorithm: datafile.None}, nil
	case "zst":
		return datafile.Compression{Algorithm: datafile.Zstd}, nil
	case "gz":
		return datafile.Compression{Algorithm: datafile.Gzip}, nil
	}
	return datafile.Compression{}, usagef("--format: %q is not one of sql, zst and gz", form)
}

// entryNamed is the entry of a backup that the name of a schema or tenant means.
func entryNamed(b repo.Backup, name string) (manifest.Schema, error) {
	var of []manifest.Schema
	for _, e := range b.Manifest.Schemas {
		if e.Schema == name {
			return e, nil
		}
		if e.Tenant == name {
			of = append(of, e)
		}
	}
	switch len(of) {
	case 0:
		return manifest.Schema{}, usagef("backup %s does not hold %q", b.ID, name)
	case 1:
		return of[0], nil
	}
	return manifest.Schema{}, usagef("tenant %q has %d schemas: name one of them", name, len(of))
}

// interruptible is a writer that ends with its context.
type interruptible struct {
	ctx context.Context
	io.Writer
}

// Write writes unless the context is over.
func (w *interruptible) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Writer.Write(p)
}

// writeNew writes a file that does not exist yet, whole or not at all.
func writeNew(name string, write func(io.Writer) error) (err error) {
	exists := func() error {
		return &usageError{err: fmt.Errorf("--output: %s exists already", ui.Safe(name)), hint: "give another name, or remove the file"}
	}
	if _, err := os.Lstat(name); err == nil {
		return exists()
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tenantkeep-export-") // readable by nobody else
	if err != nil {
		return err
	}
	defer func() {
		if failure := os.Remove(f.Name()); !errors.Is(failure, fs.ErrNotExist) {
			err = errors.Join(err, failure)
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), name) // unlike a rename it replaces nothing
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		return exists()
	}
	return os.Rename(f.Name(), name) // not all file systems have links
}
