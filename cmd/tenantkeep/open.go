package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// openStorage returns the storage that the settings name.
func openStorage(cfg *config.Config) (storage.Storage, error) {
	if scheme, _, found := strings.Cut(cfg.Repository, "://"); found {
		return nil, &usageError{
			err:  fmt.Errorf("%s: a repository at %s:// cannot be used", name(cfg, "repository"), scheme),
			hint: "give the path of a directory",
		}
	}
	store, err := local.New(cfg.Repository)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return store, nil
}

// openRepository returns the repository that the settings name, and the storage
// that it is in.
func (a *app) openRepository(cfg *config.Config) (*repo.Repo, storage.Storage, error) {
	store, err := openStorage(cfg)
	if err != nil {
		return nil, nil, err
	}
	return repo.Open(store, repo.Options{Now: a.now, Zone: cfg.TimeZone}), store, nil
}

// mediaRoot returns where the tenants' files are; nil where these are not asked
// for.
func mediaRoot(cfg *config.Config) (*media.Root, error) {
	if !cfg.IncludeMedia {
		return nil, nil
	}
	if cfg.MediaRoot == "" {
		return nil, &usageError{
			err:  fmt.Errorf("%s: nothing says where the files are", name(cfg, "include-media")),
			hint: "name the directory with the tenants' folders with --media-root or BACKUP_MEDIA_ROOT",
		}
	}
	return knownMedia(cfg)
}

// knownMedia is where the tenants' files are, whether or not these are asked for;
// nil where nothing says it.
func knownMedia(cfg *config.Config) (*media.Root, error) {
	if cfg.MediaRoot == "" {
		return nil, nil
	}
	root, err := media.NewRoot(cfg.MediaRoot, cfg.MediaPattern, cfg.MediaFolders)
	if err != nil {
		return nil, asUsage(err)
	}
	return root, nil
}

// pendingMedia lists the media folders of tenants that have not followed their schemas
// yet, because a restore was interrupted. A root that is not known or not there has
// none.
func pendingMedia(ctx context.Context, target *pg.Server, root *media.Root) ([]restore.LeftFolder, error) {
	if root == nil || root.Ready(ctx) != nil {
		return nil, nil
	}
	conn, err := target.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	list, err := restore.LeftMedia(ctx, conn, root)
	return slices.DeleteFunc(list, func(l restore.LeftFolder) bool { return !l.Pending }), err
}

// mediaFlags are the settings about the tenants' files.
var mediaFlags = []string{"include-media", "media-root", "media-pattern", "media-folder"}

// mediaSource is mediaRoot for a backup.
func mediaSource(cfg *config.Config) (media.Source, error) {
	root, err := mediaRoot(cfg)
	if root == nil {
		return nil, err
	}
	return root, nil
}

// server returns the database that the settings name.
func server(cfg *config.Config) (*pg.Server, error) {
	s, err := pg.Parse(cfg.DatabaseURL)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("%s: %w", name(cfg, "database-url"), err), hint: "postgres://user@host:5432/database; the password in PGPASSWORD, PGPASSWORD_FILE or ~/.pgpass"}
	}
	return s.WithPassword(cfg.DatabasePassword), nil
}

// name tells how the user gave a setting, or else what it is called.
func name(cfg *config.Config, key string) string {
	if cfg.Given(key) {
		return cfg.Source(key).String()
	}
	return key
}
