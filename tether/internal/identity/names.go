// Package identity gives the machine its names and its clock.
package identity

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Bounds of what a clock may be off, and of how often that is tried.
const (
	// clockTolerance is how far the clock may be off the host's before it is stepped: less than that is the time that the
	// question took.
	clockTolerance = 20 * time.Millisecond
	// clockDoubt is what an answer, or a step, may take: on a host with more machines than processors a machine stands still in the
	// middle of it, and then it is done again.
	clockDoubt = 20 * time.Millisecond
	clockTries = 8
)

// SetNames sets the kernel's host name and domain name, uname(2).
func SetNames(s *tetherv1.Spec) error {
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("cannot set hostname %q: %w", s.Hostname, err)
	}
	if s.Domainname == "" {
		return nil
	}
	if err := unix.Setdomainname([]byte(s.Domainname)); err != nil {
		return fmt.Errorf("cannot set domain name %q: %w", s.Domainname, err)
	}
	return nil
}

// SetClock steps the wall clock to its host's, which ask returns, if it is off by more than a little. It says by how much it was off,
// and to what that is known.
func SetClock(ask func() (time.Time, error)) (off, doubt time.Duration, err error) {
	for try := range clockTries {
		begin := time.Now()
		host, err := ask()
		if err != nil {
			return 0, 0, err
		}
		half := time.Since(begin) / 2
		if try == 0 || half < doubt {
			off, doubt = host.Sub(begin.Add(half)), half
		}
		if doubt < clockDoubt/2 {
			break
		}
	}
	if off.Abs() < clockTolerance {
		return off, doubt, nil
	}
	return off, doubt, step(off)
}

// step adds to the wall clock.
func step(off time.Duration) error {
	began := time.Now()
	for range clockTries {
		before := time.Now()
		ts := unix.NsecToTimespec(began.Add(before.Sub(began)).Add(off).UnixNano()) // by the monotonic clock, which is not stepped
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			return fmt.Errorf("cannot set the clock: %w", err)
		}
		if time.Since(before) < clockDoubt {
			break
		}
	}
	return nil
}

// Hostname is the text of /etc/hostname.
func Hostname(s *tetherv1.Spec) string { return oneLine(s.Hostname) + "\n" }

// Hosts is the text of /etc/hosts: the lines that Docker writes, the container's own name, and the spec's further ones.
func Hosts(s *tetherv1.Spec) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	name := s.Hostname
	if s.Domainname != "" {
		name = s.Hostname + "." + s.Domainname + " " + s.Hostname
	}
	if address := FirstAddress(s); address != "" && name != "" {
		line(&b, address, name)
	}
	for _, h := range s.Hosts {
		line(&b, h.Address, strings.Join(h.Names, " "))
	}
	return b.String()
}

// ResolvConf is the text of /etc/resolv.conf, resolv.conf(5).
func ResolvConf(r *tetherv1.Resolver) string {
	var b strings.Builder
	for _, n := range r.GetNameservers() {
		fmt.Fprintf(&b, "nameserver %s\n", oneLine(n))
	}
	if search := r.GetSearch(); len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", oneLine(strings.Join(search, " ")))
	}
	if options := r.GetOptions(); len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", oneLine(strings.Join(options, " ")))
	}
	return b.String()
}

// FirstAddress is the machine's first address, without its prefix length, or "".
func FirstAddress(s *tetherv1.Spec) string {
	for _, i := range s.Interfaces {
		for _, a := range i.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil {
				return p.Addr().String()
			}
		}
	}
	return ""
}

func line(b *strings.Builder, address, names string) {
	fmt.Fprintf(b, "%s\t%s\n", oneLine(address), oneLine(names))
}

// oneLine keeps a value from starting a line of its own.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }
