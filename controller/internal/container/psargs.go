package container

import (
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Formats of ps, by the letters that ask for them.
const (
	psDefault = "pid tty time cmd=comm"
	psFull    = "uid=user pid ppid c stime tty time cmd"
	psExtra   = "uid=user pid ppid c sz rss stime tty time cmd"
	psLong    = "s uid pid ppid c opri ni sz tty time cmd=comm"
	psLongY   = "s uid pid ppid c opri ni rss sz tty time cmd=comm"
	psBSD     = "pid tty stat bsdtime command=args"
	psUser    = "user pid %cpu %mem vsz rss tty stat start=bsdstart bsdtime command=args"
)

// psColumns are the columns that ps(1) shows for args, which are separated by blanks: Docker's clients send no quotes. All processes of the
// container are shown, so what chooses among all of a machine is taken when it chooses all of them, and refused otherwise. The refusals
// are ps's own words where it has some.
func psColumns(args string) ([]psColumn, error) {
	words := strings.Fields(args)
	if len(words) == 0 {
		words = []string{"-ef"}
	}
	var p psRequest
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		rest, err := p.option(word, words)
		if err != nil {
			return nil, err
		}
		words = rest
	}
	columns, err := p.columns()
	if err == nil && !slices.ContainsFunc(columns, func(c psColumn) bool { return c.title == "PID" }) {
		err = errdefs.ErrInternal.WithMessage("Couldn't find PID field in ps output")
	}
	return columns, err
}

// psRequest is what options ask for.
type psRequest struct {
	full, extra, long, noFlags, bsd, user bool
	own                                   []string // "name" or "name=TITLE"
}

// option reads one word, and what belongs to it of those that follow.
func (p *psRequest) option(word string, more []string) (rest []string, err error) {
	switch {
	case strings.HasPrefix(word, "--"):
		name, list, with := strings.Cut(word[2:], "=")
		switch name {
		case "format":
			if !with {
				return p.format("", more)
			}
			return p.format(list, more)
		case "cols", "columns", "width":
			if !with && len(more) > 0 {
				more = more[1:]
			}
			return more, nil
		}
		return nil, psUnknown("unknown option --" + name)
	case strings.HasPrefix(word, "-"):
		return p.letters(word[1:], more, false)
	default:
		return p.letters(word, more, true)
	}
}

// letters reads options of one letter each: those behind a dash, and BSD's without one.
func (p *psRequest) letters(word string, more []string, bsd bool) (rest []string, err error) {
	p.bsd = p.bsd || bsd
	for i, letter := range []byte(word) {
		switch {
		case letter == 'o': // the list is what follows
			return p.format(word[i+1:], more)
		case bsd && strings.IndexByte("axwrT", letter) >= 0, !bsd && strings.IndexByte("eAadxw", letter) >= 0:
			if letter == 'r' || letter == 'T' {
				return nil, psUnknown("option " + string(letter) + " chooses among processes")
			}
		case letter == 'u' && (bsd || i > 0 && strings.Contains(word, "x")): // "-aux" is taken for "aux", as ps does
			p.user, p.bsd = true, true
		case letter == 'f' && !bsd:
			p.full = true
		case letter == 'F' && !bsd:
			p.extra = true
		case letter == 'l' && !bsd:
			p.long = true
		case letter == 'y' && !bsd:
			p.noFlags = true
		default:
			dash := "-"
			if bsd {
				dash = ""
			}
			return nil, psUnknown("option " + dash + string(letter) + " is not known here")
		}
	}
	return more, nil
}

// format reads a list of columns.
func (p *psRequest) format(list string, more []string) (rest []string, err error) {
	if list == "" {
		if len(more) == 0 {
			return nil, psUnknown("format specification must follow -o")
		}
		list, more = more[0], more[1:]
	}
	if name, title, renamed := strings.Cut(list, "="); renamed && !strings.Contains(name, ",") {
		p.own = append(p.own, name+"="+title) // a title may have commas
		return more, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		p.own = append(p.own, name)
	}
	return more, nil
}

// columns are those that were asked for.
func (p *psRequest) columns() ([]psColumn, error) {
	kinds := psKinds()
	var all []psColumn
	if len(p.own) > 0 {
		for _, word := range p.own {
			name, title, renamed := strings.Cut(word, "=")
			col, known := kinds[name]
			if !known {
				return nil, psUnknown(`unknown user-defined format specifier "` + name + `"`)
			}
			if renamed {
				if name == "pid" { // Docker finds the processes of a container by this title
					return nil, errdefs.ErrInternal.WithMessage("Couldn't find PID field in ps output")
				}
				col.title = title
			}
			all = append(all, col)
		}
		return all, nil
	}
	for word := range strings.FieldsSeq(p.usual()) { // "title=name" where a format has a title of its own
		title, name, own := strings.Cut(word, "=")
		if !own {
			all = append(all, kinds[title])
			continue
		}
		all = append(all, psColumn{strings.ToUpper(title), kinds[name].show})
	}
	return all, nil
}

// usual is the format that the letters ask for.
func (p *psRequest) usual() string {
	switch {
	case p.user:
		return psUser
	case p.bsd:
		return psBSD
	case p.long && p.noFlags:
		return psLongY
	case p.long:
		return psLong
	case p.extra:
		return psExtra
	case p.full:
		return psFull
	default:
		return psDefault
	}
}

func psUnknown(why string) error {
	return invalid("ps: %s. The list of processes comes from the containerVM's tether: it takes -e, -A, -a, -x, -f, -F, -l, -y, aux, and -o with names of columns", why)
}
