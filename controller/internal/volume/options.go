package volume

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Driver is the name of the only driver: Docker's own.
const Driver = "local"

// Sizes of a volume's disk, in bytes.
const (
	// MinSize is that of an empty volume (scripts/blank-disk).
	MinSize = 64 << 20
	// DefaultSize costs nothing: disks are thin.
	DefaultSize = hostapi.DiskBytes
	// MaxSize is as far as an ext4 with blocks of 4 KiB and 32-bit numbers reaches.
	MaxSize = 16<<40 - sizeUnit
	// sizeUnit is what sizes are rounded up to: file systems grow by blocks, and disks by KiB.
	sizeUnit = 1 << 20
)

// Limits of what a client may write into the index, in bytes.
const (
	maxName   = 255
	maxOption = 4096
	maxLabels = 64 << 10
)

// Kind is what a volume's data is kept in.
type Kind string

const (
	KindDisk  Kind = "disk"
	KindNFS   Kind = "nfs"
	KindTmpfs Kind = "tmpfs"
)

// Place is where a volume's data is, as its options say.
type Place struct {
	Kind    Kind
	Size    int64  // of a disk, in bytes
	Address string // of an NFS server
	Path    string // on it, absolute
	Options string // of the mount of an NFS directory or a tmpfs, separated by commas
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// validName is Docker's rule for names of local volumes.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// CheckName refuses what cannot be the name of a volume, in Docker's words.
func CheckName(name string) error {
	switch {
	case len(name) == 1:
		return invalid("volume name is too short, names should be at least two alphanumeric characters")
	case len(name) > maxName:
		return invalid("volume name is too long, names should be at most %d characters", maxName)
	case !validName.MatchString(name):
		return invalid("%q includes invalid characters for a local volume name, only %q are allowed. If you intended to pass a host directory, use absolute path", name, "[a-zA-Z0-9][a-zA-Z0-9_.-]")
	}
	return nil
}

// CheckDriver refuses all drivers but the only one.
func CheckDriver(name string) error {
	if name == "" || name == Driver {
		return nil
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
		"error looking up volume plugin %s: plugin %q not found: volumes here have the driver %q, with the options size=, or type=nfs or type=tmpfs", name, name, Driver))
}

// ParseOptions reads the options of Docker's local driver, as far as they mean something without a host to mount on.
func ParseOptions(options map[string]string) (Place, error) {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains([]string{"type", "o", "device", "size"}, key) {
			return Place{}, invalid("invalid option: %q", key)
		}
		if len(options[key]) > maxOption || strings.ContainsRune(options[key], 0) {
			return Place{}, invalid("invalid option: %q is longer than %d bytes, or has a NUL", key, maxOption)
		}
	}
	for _, need := range [][2]string{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		_, has := options[need[0]]
		if _, ok := options[need[1]]; has && !ok {
			return Place{}, invalid("missing required option: %q", need[1])
		}
	}
	kind, typed := options["type"]
	if size, ok := options["size"]; ok && typed {
		return Place{}, invalid("size=%s is of a volume that is a disk: one of type %s is as large as its server lets it be, or its option o=size= says", size, kind)
	}
	switch {
	case !typed:
		return parseDisk(options)
	case kind == "nfs" || kind == "nfs4":
		return parseNFS(kind, options["device"], options["o"])
	case kind == "tmpfs":
		return parseTmpfs(options["o"])
	case kind == "none" || kind == "bind" || slices.Contains(strings.Split(options["o"], ","), "bind"):
		return Place{}, errdefs.ErrNotImplemented.WithMessage(NoBind(options["device"]))
	}
	return Place{}, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("volumes of type %q are not supported: want a disk (no type), nfs, nfs4 or tmpfs", kind))
}

// NoBind says why a path of the host cannot be mounted, and what can be done instead.
func NoBind(source string) string {
	return fmt.Sprintf("cannot mount the host's %s: a containerVM shares no file system with its host. "+
		"Use a volume (-v NAME:/path), copy files with docker cp, or mount a directory of an NFS server "+
		"(docker volume create -o type=nfs -o o=addr=SERVER -o device=:/path NAME)", source)
}

func parseDisk(options map[string]string) (Place, error) {
	text, ok := options["size"]
	if !ok {
		return Place{Kind: KindDisk, Size: DefaultSize}, nil
	}
	size, err := units.RAMInBytes(text)
	switch {
	case err != nil:
		return Place{}, invalid("%v", err)
	case size == 0:
		size = DefaultSize // Docker: no limit
	case size < MinSize || size > MaxSize:
		return Place{}, invalid("size=%s is not possible: want %s to 16 TiB", text, units.BytesSize(MinSize))
	}
	return Place{Kind: KindDisk, Size: (size + sizeUnit - 1) / sizeUnit * sizeUnit}, nil
}

// parseNFS reads device ":/path" or "server:/path" and the options of mount.nfs(8). The server is that of addr=, if there is one.
func parseNFS(kind, device, o string) (Place, error) {
	server, dir, ok := cutServer(device)
	if !ok || !path.IsAbs(dir) {
		return Place{}, invalid("invalid device %q of an NFS volume: want :/path, with o=addr=SERVER, or SERVER:/path", device)
	}
	p := Place{Kind: KindNFS, Address: server, Path: dir}
	var kept []string
	version := false
	for _, option := range strings.Split(o, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "":
			continue
		case "addr":
			p.Address = strings.Trim(value, "[]")
			continue
		case "vers", "nfsvers":
			version = true
		}
		kept = append(kept, option)
	}
	if kind == "nfs4" && !version {
		kept = append(kept, "vers=4")
	}
	p.Options = strings.Join(kept, ",")
	if p.Address == "" {
		return Place{}, invalid("an NFS volume needs its server: o=addr=SERVER, or device=SERVER:/path")
	}
	return p, nil
}

// cutServer splits "server:/path"; an IPv6 address is in brackets.
func cutServer(device string) (server, dir string, ok bool) {
	if rest, bracket := strings.CutPrefix(device, "["); bracket {
		if server, dir, ok = strings.Cut(rest, "]:"); ok {
			return server, dir, true
		}
	}
	return strings.Cut(device, ":")
}

func parseTmpfs(o string) (Place, error) {
	if err := CheckTmpfs(o); err != nil {
		return Place{}, err
	}
	return Place{Kind: KindTmpfs, Options: o}, nil
}

// tmpfsFlags and tmpfsValues are the options of a tmpfs that a tether knows (tether.proto, Tmpfs).
var (
	tmpfsFlags  = []string{"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"}
	tmpfsValues = []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"}
)

// CheckTmpfs refuses options of a tmpfs that are not known.
func CheckTmpfs(options string) error {
	for _, option := range strings.Split(options, ",") {
		key, value, hasValue := strings.Cut(option, "=")
		switch {
		case option == "", !hasValue && slices.Contains(tmpfsFlags, key), hasValue && value != "" && slices.Contains(tmpfsValues, key):
		default:
			return invalid("Invalid tmpfs option %q", option)
		}
	}
	return nil
}
