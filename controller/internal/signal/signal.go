// Package signal reads the names of Linux signals as Docker's clients write them.
package signal

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// rtMin and rtMax are the real-time signals that programs may use: glibc and musl keep 32 and 33 for themselves.
	rtMin = 34
	rtMax = 64
)

// Parse returns the number of a signal: "9", "KILL", "SIGKILL", "RTMIN+3", in any case.
func Parse(s string) (int32, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > rtMax {
			return 0, fmt.Errorf("invalid signal: %s", s)
		}
		return int32(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return int32(n), nil
	}
	if n, ok := realTime(name); ok {
		return n, nil
	}
	return 0, fmt.Errorf("invalid signal: %s", s)
}

// realTime reads "RTMIN", "RTMIN+n", "RTMAX" and "RTMAX-n".
func realTime(name string) (int32, bool) {
	offset := func(s string) (int, bool) {
		if s == "" {
			return 0, true
		}
		n, err := strconv.Atoi(s)
		return n, err == nil
	}
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		n, ok := offset(rest)
		return int32(rtMin + n), ok && n >= 0 && rtMin+n <= rtMax
	}
	if rest, ok := strings.CutPrefix(name, "RTMAX"); ok {
		n, ok := offset(rest)
		return int32(rtMax + n), ok && n <= 0 && rtMax+n >= rtMin
	}
	return 0, false
}
