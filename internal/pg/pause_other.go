//go:build !linux

package pg

import "time"

func pause(d time.Duration) { time.Sleep(d) }
