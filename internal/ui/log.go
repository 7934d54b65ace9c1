package ui

import "log/slog"

// LogLevel returns the least level of the log that is shown at the verbosity.
func (u *UI) LogLevel() slog.Level {
	switch u.opts.Verbosity {
	case Quiet:
		return slog.LevelError
	case Normal:
		return slog.LevelWarn
	case Verbose:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Logger returns a logger that writes what has at least the level to stderr,
// and all to the other handlers, such as that of a log file, which filter by
// themselves.
func (u *UI) Logger(least slog.Level, others ...slog.Handler) *slog.Logger {
	stderr := slog.NewTextHandler(u.err, &slog.HandlerOptions{
		Level: least,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{} // whoever reads along knows the time
			}
			return a
		},
	})
	return slog.New(slog.NewMultiHandler(append([]slog.Handler{stderr}, others...)...))
}
