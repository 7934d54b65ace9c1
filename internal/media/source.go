package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tenant says whose files are meant.
type Tenant struct{ Schema, Name string }

// Tenants lists the tenants that there are at the moment of the call, and may list
// others with them that there were.
type Tenants func(context.Context) ([]Tenant, error)

// Source is where the folders of tenants are. A Root is one.
type Source interface {
	// Ready says why no folder can be read.
	Ready(ctx context.Context) error
	// Check refuses tenants whose folders are the same, or one in the other.
	Check(all []Tenant) error
	// Location is where the files of a tenant are, for people.
	Location(t Tenant) (string, error)
	// Open opens the folder of a tenant. One that has none is an error that
	// matches fs.ErrNotExist.
	Open(ctx context.Context, t Tenant) (OpenTree, error)
	// OpenShared opens what belongs to none of the tenants. It asks for these again
	// while it is read, since new ones come.
	OpenShared(ctx context.Context, tenants Tenants) (OpenTree, error)
}

// OpenTree is a Tree that must be closed.
type OpenTree interface {
	Tree
	io.Closer
}

// DefaultPattern is where in a Root the folder of a tenant is where nothing is
// said: as django-tenants lays them out.
const DefaultPattern = "{schema}"

// Root is a directory with the folders of tenants.
type Root struct {
	dir      string
	pattern  []string          // elements
	folders  map[string]string // those that are elsewhere, by schema
	database string            // whose tenants they are; empty: nobody said it
}

var _ Source = (*Root)(nil)

// RootError is a setting of a Root that cannot be used.
type RootError struct{ Text, Advice string }

// Error says what is wrong.
func (e *RootError) Error() string { return e.Text }

// Hint says what to do.
func (e *RootError) Hint() string { return e.Advice }

// NewRoot returns the Root in a directory. The pattern is the path of a tenant's
// folder below it, in which {schema} and {tenant} stand for the names of those;
// folders are the paths of tenants for which it does not hold, by schema.
func NewRoot(dir, pattern string, folders map[string]string) (*Root, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find media root %s: %w", dir, err)
	}
	r := &Root{dir: abs, pattern: strings.Split(pattern, "/"), folders: folders}
	if err := checkFolder(pattern); err != nil {
		return nil, &RootError{fmt.Sprintf("media pattern %q: %v", pattern, err), "give a path below the media root, such as {schema} or tenants/{schema}/files"}
	}
	if !strings.Contains(pattern, "{schema}") && !strings.Contains(pattern, "{tenant}") {
		return nil, &RootError{fmt.Sprintf("media pattern %q is the same for all tenants", pattern), "let it contain {schema} or {tenant}"}
	}
	for schema, folder := range folders {
		if err := checkFolder(folder); err != nil {
			return nil, &RootError{fmt.Sprintf("media folder %q of schema %q: %v", folder, schema, err), "give a path below the media root"}
		}
	}
	return r, nil
}

// checkFolder refuses what is no path of a folder below a root.
func checkFolder(name string) error {
	if name == Top {
		return errors.New("it is the media root itself")
	}
	if first, _, _ := strings.Cut(name, "/"); first == notesFolder {
		return errors.New("tenantkeep keeps its notes there")
	}
	return checkName(name)
}

// Of returns the Root for a database, by something that no other one has. Only what
// restores into that one have moved is touched.
func (r *Root) Of(database string) *Root {
	of := *r
	of.database = database
	return &of
}

// Dir is the directory as an absolute path.
func (r *Root) Dir() string { return r.dir }

// Ready says why the directory cannot be read.
func (r *Root) Ready(context.Context) error {
	root, err := r.open()
	if err != nil {
		return err
	}
	return root.Close()
}

func (r *Root) open() (*os.Root, error) {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, &RootError{fmt.Sprintf("media root %s: %v", r.dir, cause(err)), "is it mounted? --media-root names the directory with the tenants' folders"}
	}
	return root, nil
}

// Folder is the path of a tenant's folder below the root. Names that cannot be an
// element of a path are refused.
func (r *Root) Folder(t Tenant) (string, error) {
	if folder, ok := r.folders[t.Schema]; ok {
		return folder, nil
	}
	elements := make([]string, len(r.pattern))
	for i, p := range r.pattern {
		name := strings.NewReplacer("{schema}", t.Schema, "{tenant}", t.Name).Replace(p)
		if name == "" || name == "." || name == ".." || name == notesFolder || strings.ContainsAny(name, "/\x00") || len(name) > 255 {
			return "", &RootError{
				fmt.Sprintf("schema %q, tenant %q: %q cannot be the name of a folder", t.Schema, t.Name, name),
				"say with --media-folder where its files are",
			}
		}
		elements[i] = name
	}
	return strings.Join(elements, "/"), nil
}

// Location is the path of a tenant's folder.
func (r *Root) Location(t Tenant) (string, error) {
	folder, err := r.Folder(t)
	return filepath.Join(r.dir, folder), err
}

// Check refuses tenants whose folders are the same, or one in the other.
func (r *Root) Check(all []Tenant) error { return r.Apart(all, nil) }

// Apart is Check for tenants beside others, among which they may be too. Those may
// overlap: of what is known by several names one may be out of date.
func (r *Root) Apart(tenants, others []Tenant) error {
	mine, theirs := r.owners(tenants), r.owners(others)
	for _, t := range tenants {
		folder, err := r.Folder(t)
		if err != nil {
			continue // it has none, and opening it says so
		}
		for _, owners := range []map[string][]string{mine, theirs} {
			for _, other := range owners[folder] {
				if other != t.Schema {
					return &RootError{fmt.Sprintf("schemas %q and %q have the same media folder %q", other, t.Schema, folder), "see --media-pattern and --media-folder"}
				}
			}
			if err := inside(folder, t.Schema, owners); err != nil {
				return err
			}
		}
	}
	for folder, schemas := range theirs {
		for _, schema := range schemas {
			if err := inside(folder, schema, mine); err != nil {
				return err
			}
		}
	}
	return nil
}

// owners are the schemas of tenants by their folders.
func (r *Root) owners(tenants []Tenant) map[string][]string {
	owners := map[string][]string{}
	for _, t := range tenants {
		if folder, err := r.Folder(t); err == nil {
			owners[folder] = append(owners[folder], t.Schema)
		}
	}
	return owners
}

// inside refuses a folder of a schema that is in one of another.
func inside(folder, schema string, owners map[string][]string) error {
	for above := parent(folder); above != Top; above = parent(above) {
		for _, other := range owners[above] {
			if other != schema {
				return &RootError{fmt.Sprintf("the media folder of schema %q is in that of %q", schema, other), "see --media-pattern and --media-folder"}
			}
		}
	}
	return nil
}

// Open opens the folder of a tenant.
func (r *Root) Open(_ context.Context, t Tenant) (OpenTree, error) {
	folder, err := r.Folder(t)
	if err != nil {
		return nil, err
	}
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	tree, err := OpenFolder(root, folder)
	if err := errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	return tree, nil
}

// OpenShared opens the directory without the folders of the tenants, and without
// what restores keep beside them.
func (r *Root) OpenShared(ctx context.Context, tenants Tenants) (_ OpenTree, err error) {
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	skip := map[string]bool{}
	if err := r.skipNow(ctx, skip, tenants); err != nil {
		return nil, err
	}
	tree, err := OpenFolder(root, Top)
	if err != nil {
		return nil, err
	}
	tree.Skip = func(name string) bool { return skip[name] }
	tree.look = func(ctx context.Context, names []string) error {
		if !slices.ContainsFunc(names, func(name string) bool { return !skip[name] && r.mayBeTenants(name) }) {
			return nil
		}
		return r.skipNow(ctx, skip, tenants)
	}
	return tree, nil
}

// skipNow adds what belongs to tenants and restores at this moment. Who is not noted
// any more as about to appear is a tenant: in this order nobody slips through.
func (r *Root) skipNow(ctx context.Context, skip map[string]bool, tenants Tenants) error {
	root, err := r.open()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // it was only read
	if err := r.skipMoves(root, skip); err != nil {
		return err
	}
	list, err := tenants(ctx)
	if err != nil {
		return err
	}
	for folder := range r.owners(list) {
		skip[folder] = true
	}
	return nil
}

// mayBeTenants reports whether the folder of a tenant can have that path, or what a
// restore makes beside it.
func (r *Root) mayBeTenants(name string) bool {
	if strings.Count(name, "/") == len(r.pattern)-1 {
		return true
	}
	for _, folder := range r.folders {
		if parent(folder) == parent(name) {
			return true
		}
	}
	return false
}
