package image

import (
	"fmt"
	"strings"
)

// pairs reads `name=value name2="a value" ...` or the old form "name value" of an instruction.
func (a *applier) pairs(instruction, s string) ([][2]string, error) {
	raw := split(s)
	if !strings.Contains(raw[0], "=") {
		name, value, ok := strings.Cut(s, " ")
		if !ok {
			return nil, fmt.Errorf("%s must have two arguments", instruction)
		}
		return a.pair(instruction, nil, name, strings.TrimSpace(value))
	}
	var out [][2]string
	for _, w := range raw {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("Syntax error - can't find = in %q. Must be of the form: name=value", w)
		}
		var err error
		if out, err = a.pair(instruction, out, name, value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// pair appends a name and a value to pairs, both without quotes and with variables replaced.
func (a *applier) pair(instruction string, pairs [][2]string, name, value string) ([][2]string, error) {
	name, err := a.word(name)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, fmt.Errorf("%s names can not be blank", instruction)
	}
	if value, err = a.word(value); err != nil {
		return nil, err
	}
	return append(pairs, [2]string{name, value}), nil
}

// split cuts a line at spaces that are neither quoted nor behind a backslash, and leaves both as they are. There is at least one word.
func split(s string) (words []string) {
	var quote byte
	begin := -1
	for i := 0; i < len(s); i++ {
		c := s[i]
		space := quote == 0 && (c == ' ' || c == '\t')
		if begin < 0 && !space {
			begin = i
		}
		switch {
		case space && begin >= 0:
			words, begin = append(words, s[begin:i]), -1
		case c == '\\' && quote != '\'':
			i++ // what follows is no quote and no end
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == c:
			quote = 0
		}
	}
	if begin >= 0 || len(words) == 0 {
		words = append(words, s[max(begin, 0):])
	}
	return words
}

// word takes quotes and backslashes away as a shell does, and puts in variables of the configuration: $name, ${name}, ${name:-otherwise} and
// ${name:+instead}. Within single quotes all is as it is.
func (a *applier) word(raw string) (string, error) {
	var out strings.Builder
	var quote byte
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case quote == '\'' && c != '\'':
			out.WriteByte(c)
		case c == '\\' && i+1 < len(raw):
			i++
			if quote == '"' && !strings.ContainsRune(`"\$`, rune(raw[i])) {
				out.WriteByte('\\')
			}
			out.WriteByte(raw[i])
		case c == '$':
			value, n, err := a.variable(raw[i+1:])
			if err != nil {
				return "", fmt.Errorf("failed to process %q: %w", raw, err)
			}
			out.WriteString(value)
			i += n
		case quote == c && c != 0:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		default:
			out.WriteByte(c)
		}
	}
	switch quote {
	case '"':
		return "", fmt.Errorf("failed to process %q: unexpected end of statement while looking for matching double-quote", raw)
	case '\'':
		return "", fmt.Errorf("failed to process %q: unexpected end of statement while looking for matching single-quote", raw)
	}
	return out.String(), nil
}

// variable is the value of the variable whose name is at the beginning of s, and how many bytes say so.
func (a *applier) variable(s string) (value string, n int, err error) {
	if !strings.HasPrefix(s, "{") {
		name := nameAt(s)
		if name == "" {
			return "$", 0, nil
		}
		return a.lookup(name), len(name), nil
	}
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return "", 0, fmt.Errorf("syntax error: missing '}'")
	}
	name := nameAt(s[1:])
	value = a.lookup(name)
	switch rest := s[1+len(name) : end]; {
	case name == "":
		return "", 0, fmt.Errorf("syntax error: bad substitution")
	case rest == "":
	case strings.HasPrefix(rest, ":-"):
		if value == "" {
			value = rest[2:]
		}
	case strings.HasPrefix(rest, ":+"):
		if value != "" {
			value = rest[2:]
		}
	default:
		return "", 0, fmt.Errorf("unsupported modifier (%s) in substitution: only :- and :+ are known", rest)
	}
	return value, end + 1, nil
}

// nameAt is the name of a variable with which s begins.
func nameAt(s string) string {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return s[:i]
		}
	}
	return s
}

func (a *applier) lookup(name string) string {
	for _, e := range a.c.Env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}
