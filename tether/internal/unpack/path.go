package unpack

import (
	"fmt"
	"path"
	"strings"
)

// cleanName is a path of the layer relative to its root, without "." and empty elements; the root is "". An element and
// the ".." behind it cancel each other in the text, whatever the element is, as Docker has it.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("%w: a path of %d bytes, more than %d", ErrTooLarge, len(name), maxName)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: a path with a zero byte", ErrUnsupported)
	}
	name = path.Clean(strings.TrimLeft(strings.TrimPrefix(name, "./"), "/"))
	switch {
	case name == ".":
		return "", nil
	case name == "..", strings.HasPrefix(name, "../"):
		return "", fmt.Errorf("%w: a path with %q", ErrEscape, "..")
	case strings.Count(name, "/") >= maxDepth:
		return "", fmt.Errorf("%w: a path of more than %d elements", ErrTooLarge, maxDepth)
	}
	return name, nil
}

// split cuts a clean name into its directory and its last element.
func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// Names of whiteouts, from the image specification.
const (
	whiteoutPrefix = ".wh."
	opaque         = ".wh..opq" // behind the prefix
	aufsPrefix     = ".wh."     // behind the prefix: AUFS's own bookkeeping, which means nothing here
)

// whiteout says what an entry hides, if it is a whiteout: a name, or opaque.
func whiteout(base string) (hidden string, ok bool) { return strings.CutPrefix(base, whiteoutPrefix) }
