package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// measurement is what one run of a contender took.
type measurement struct {
	wall time.Duration
	cpu  time.Duration // of the client's processes, children included
	// own is the peak of resident memory of the first process alone, in bytes; 0
	// where the system does not tell.
	own int64
	// tree is the greatest peak among that process and its children.
	tree   int64
	stored int64
	// blocked is for how long others could not use the tables of the tenant.
	blocked time.Duration
	// extrapolate is by how much time and bytes are multiplied; 0 not at all.
	extrapolate float64
}

func (m *measurement) add(other measurement) {
	m.wall += other.wall
	m.cpu += other.cpu
	m.own = max(m.own, other.own)
	m.tree = max(m.tree, other.tree)
}

func scaled(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// measure runs a program and waits for it.
func measure(ctx context.Context, env []string, program string, args ...string) (measurement, error) {
	return measureOutput(ctx, nil, env, program, args...)
}

// measureOutput is measure for a program whose output is of use.
func measureOutput(ctx context.Context, out io.Writer, env []string, program string, args ...string) (measurement, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, &said
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return measurement{}, err
	}
	return waitFor(cmd, begin, &said)
}

// measurePipe runs a program whose output goes through a filter into a file, and
// waits for both. The filter counts for time, not for memory.
func measurePipe(ctx context.Context, env []string, file string, program, filter []string) (m measurement, err error) {
	out, err := os.Create(file)
	if err != nil {
		return measurement{}, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	reader, writer, err := os.Pipe()
	if err != nil {
		return measurement{}, err
	}
	var said bytes.Buffer
	first := exec.CommandContext(ctx, program[0], program[1:]...)
	first.Env, first.Stdout, first.Stderr = env, writer, &said
	second := exec.CommandContext(ctx, filter[0], filter[1:]...)
	second.Env, second.Stdin, second.Stdout = env, reader, out

	begin := time.Now()
	secondErr := second.Start()
	firstErr := first.Start()
	// Each end is now open in its process alone, so that one sees the other end.
	err = errors.Join(secondErr, firstErr, reader.Close(), writer.Close())
	if firstErr == nil {
		var waitErr error
		m, waitErr = waitFor(first, begin, &said)
		err = errors.Join(err, waitErr)
	}
	if secondErr == nil {
		err = errors.Join(err, second.Wait())
		m.cpu += second.ProcessState.UserTime() + second.ProcessState.SystemTime()
	}
	m.wall = time.Since(begin)
	return m, err
}

func waitFor(cmd *exec.Cmd, begin time.Time, said *bytes.Buffer) (m measurement, err error) {
	ended := make(chan struct{})
	own := make(chan int64)
	go func() { own <- watchMemory(cmd.Process.Pid, ended) }()
	err = cmd.Wait()
	m.wall = time.Since(begin)
	close(ended)
	m.own = <-own
	m.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		m.tree = usage.Maxrss * maxrssUnit
	}
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return m, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, first)
	}
	return m, nil
}

// watchMemory follows the peak that the system keeps for a process until ended
// is closed. What wait4 tells at the end takes the children in, and pg_dump, as
// a child of tenantkeep, may be the larger one.
func watchMemory(pid int, ended <-chan struct{}) (peak int64) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err == nil {
			peak = max(peak, highWater(status))
		}
		select {
		case <-ended:
			return peak
		case <-ticker.C:
		}
	}
}

func highWater(status []byte) int64 {
	_, after, found := bytes.Cut(status, []byte("VmHWM:"))
	fields := strings.Fields(string(after[:min(len(after), 64)]))
	if !found || len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// storedBytes is the size of a file, or of all files in a folder.
func storedBytes(path string) (total int64, err error) {
	err = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// median takes each figure's own median.
func median(all []measurement) measurement {
	if len(all) == 0 {
		return measurement{}
	}
	middle := func(figure func(measurement) int64) int64 {
		values := make([]int64, len(all))
		for i, m := range all {
			values[i] = figure(m)
		}
		slices.Sort(values)
		return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	}
	return measurement{
		wall:   time.Duration(middle(func(m measurement) int64 { return int64(m.wall) })),
		cpu:    time.Duration(middle(func(m measurement) int64 { return int64(m.cpu) })),
		own:    middle(func(m measurement) int64 { return m.own }),
		tree:   middle(func(m measurement) int64 { return m.tree }),
		stored: middle(func(m measurement) int64 { return m.stored }),

		blocked: time.Duration(middle(func(m measurement) int64 { return int64(m.blocked) })),
	}
}

// printTable prints a Markdown table; the ratio is to the first contender.
func printTable(out io.Writer, title string, contenders []*contender) {
	fmt.Fprintf(out, "\n| %s | wall | to the first | client CPU | peak memory, own / with children | stored |\n", title)
	fmt.Fprintln(out, "|---|--:|--:|--:|--:|--:|")
	var reference time.Duration
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	for i, c := range contenders {
		if c.err != nil {
			fmt.Fprintf(out, "| %s | failed: %s | | | | |\n", cell(c.name), cell(c.err.Error()))
			continue
		}
		m := median(c.measurements)
		ratio := "1"
		switch {
		case i == 0:
			reference = m.wall
		case reference == 0:
			ratio = ""
		default:
			ratio = fmt.Sprintf("%.2f", m.wall.Seconds()/reference.Seconds())
		}
		fmt.Fprintf(out, "| %s | %.2f s | %s | %.2f s | %s / %s | %s |\n",
			cell(c.name), m.wall.Seconds(), ratio, m.cpu.Seconds(), bytesText(m.own), bytesText(m.tree), bytesText(m.stored))
	}
	for _, c := range contenders {
		if m := median(c.measurements); c.err == nil && m.blocked > 0 {
			fmt.Fprintf(out, "\n%s: the swap kept others waiting for %d ms.\n", c.name, m.blocked.Milliseconds())
		}
	}
}

// bytesText shows bytes in decimal megabytes; nothing for none.
func bytesText(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
