package pg

import (
	"syscall"
	"time"
)

// pause sleeps for less than a millisecond, which time.Sleep cannot do here
// while nothing else is to be done.
func pause(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil) // a signal may cut it short
}
