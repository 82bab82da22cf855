package hostapi

import (
	"fmt"
	"strconv"
	"strings"
)

// ParsePortRanges reads ports as people write them, as in "5432,8000-8010,53/udp": numbers from 1 to 65535, each with a protocol behind
// a slash; without one it is TCP. An empty text is none.
func ParsePortRanges(text string) ([]PortRange, error) {
	if text == "" {
		return nil, nil
	}
	var all []PortRange
	for _, part := range strings.Split(text, ",") {
		r, ok := parsePortRange(part)
		if !ok {
			return nil, fmt.Errorf("cannot use %q as ports: want PORT or PORT-PORT from 1 to 65535, with /udp behind for UDP", part)
		}
		all = append(all, r)
	}
	return all, nil
}

func parsePortRange(text string) (r PortRange, ok bool) {
	ports, protocol, named := strings.Cut(text, "/")
	if !named {
		protocol = TCP
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	ok = err1 == nil && err2 == nil && 0 < from && from <= to && (protocol == TCP || protocol == UDP)
	return PortRange{Protocol: protocol, First: uint16(from), Last: uint16(to)}, ok
}

// String is what ParsePortRanges reads.
func (r PortRange) String() string {
	text := strconv.Itoa(int(r.First))
	if r.Last != r.First {
		text += "-" + strconv.Itoa(int(r.Last))
	}
	return text + "/" + r.Protocol
}
