package datastore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
)

// Name is the name of the one datastore of this host.
const Name = "local"

// maxPath bounds a path in bytes (PATH_MAX of linux/limits.h without its NUL).
const maxPath = 4095

// ErrInvalidPath is wrapped by every error of ParsePath.
var ErrInvalidPath = errors.New("invalid datastore path")

// ParsePath returns the path below the datastore's root of a vSphere datastore path such as "[local] dir/file.vmdk";
// the root itself is ".". The result is clean, relative and never leads out of the root.
func ParsePath(s string) (string, error) {
	rest, ok := strings.CutPrefix(s, "[")
	name, rest, ok2 := strings.Cut(rest, "]")
	if !ok || !ok2 {
		return "", invalid(s, "it does not begin with a datastore's name in brackets")
	}
	if name != Name {
		return "", invalid(s, "no datastore has the name "+name)
	}
	return clean(s, strings.TrimPrefix(rest, " "))
}

// clean makes rel a clean relative path or says why s, of which it is a part, is none.
func clean(s, rel string) (string, error) {
	switch {
	case len(rel) > maxPath:
		return "", invalid(s[:64]+"...", fmt.Sprintf("longer than %d bytes", maxPath))
	case strings.ContainsRune(rel, 0):
		return "", invalid(s, "it holds a NUL byte")
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == ".." {
			return "", invalid(s, `it holds ".."`)
		}
		if len(part) > 255 { // NAME_MAX of linux/limits.h
			return "", invalid(s[:64]+"...", "a name in it is longer than 255 bytes")
		}
	}
	return strings.TrimPrefix(path.Clean("/"+rel), "/") + dotIfRoot(rel), nil
}

func dotIfRoot(rel string) string {
	if path.Clean("/"+rel) == "/" {
		return "."
	}
	return ""
}

func invalid(s, why string) error {
	return fmt.Errorf("%w %q: %s", ErrInvalidPath, s, why)
}

// FormatPath returns the vSphere datastore path of a path below the root.
func FormatPath(rel string) string {
	if rel == "." {
		rel = ""
	}
	return "[" + Name + "] " + rel
}

func isUpload(name string) bool { return strings.HasPrefix(name, uploadPrefix) }

// randomName returns a name that no other upload has.
func randomName() string { return rand.Text() }
