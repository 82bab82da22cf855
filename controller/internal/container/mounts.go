package container

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/volume"
)

// wanted is a mount as a request has it. It becomes a record.Mount when its volume is known.
type wanted struct {
	mount.Mount        // with a clean target; a bind is of a file that is to be copied in
	mode        string // that the volume was asked for with
	noCopy      bool
	shared      *record.Mount // another container has it
}

// mounts reads what a request mounts beside HostConfig.Tmpfs, by Docker's rules: a target that is named twice is an error, but what a
// client names comes over the volumes of other containers, and an anonymous volume that the image or the client wants (Config.Volumes) is
// made only where nothing else is. from are the mounts of other containers, by target.
func mounts(c *container.Config, h *container.HostConfig, from map[string]wanted) (map[string]wanted, error) {
	if err := volume.CheckDriver(h.VolumeDriver); err != nil {
		return nil, invalid("%v", err)
	}
	named := map[string]wanted{}
	for _, bind := range h.Binds {
		w, err := parseBind(bind)
		if err != nil {
			return nil, err
		}
		_, twice := named[w.Target]
		if tmpfs := hasTmpfs(h, w.Target); twice || tmpfs {
			return nil, invalid("Duplicate mount point: %s", w.Target)
		}
		named[w.Target] = w
	}
	for _, m := range h.Mounts {
		w, err := parseMount(m)
		if err != nil {
			return nil, err
		}
		if _, twice := named[w.Target]; twice {
			return nil, invalid("Duplicate mount point: %s", m.Target)
		}
		named[w.Target] = w
	}
	if err := checkTmpfs(h.Tmpfs); err != nil {
		return nil, err
	}
	all := map[string]wanted{}
	maps.Copy(all, from)
	maps.Copy(all, named)
	for target := range c.Volumes {
		target = path.Clean("/" + target)
		if err := checkTarget(target); err != nil {
			return nil, invalid("invalid volume specification: '%s': %v", target, err)
		}
		if _, there := all[target]; !there && !hasTmpfs(h, target) {
			all[target] = wanted{Mount: mount.Mount{Type: mount.TypeVolume, Target: target}}
		}
	}
	return all, nil
}

func hasTmpfs(h *container.HostConfig, target string) bool {
	for t := range h.Tmpfs {
		if path.Clean(t) == target {
			return true
		}
	}
	return false
}

// checkTarget refuses targets in Docker's words, and those that the guest keeps for itself.
func checkTarget(target string) error {
	clean := path.Clean(target)
	switch {
	case target == "":
		return errors.New("field Target must not be empty")
	case clean == "/":
		return errors.New("invalid specification: destination can't be '/'")
	case !path.IsAbs(target):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", target)
	case strings.ContainsRune(target, 0):
		return errors.New("a mount path has no NUL")
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} { // as tether.proto, Mount.target
		if clean == dir || strings.HasPrefix(clean, dir+"/") && dir != "/dev" {
			return fmt.Errorf("cannot mount anything at %s: %s is the containerVM's own", clean, dir)
		}
	}
	return nil
}

// parseBind reads "[SOURCE:]TARGET[:MODE]".
func parseBind(text string) (wanted, error) {
	var w wanted
	parts := strings.SplitN(text, ":", 4)
	spec := invalid("invalid volume specification: '%s'", text)
	switch {
	case parts[0] == "", len(parts) == 4, len(parts) == 2 && validMode(parts[1]):
		return w, spec
	case len(parts) == 1:
		w.Target = parts[0]
	default:
		w.Source, w.Target = parts[0], parts[1]
	}
	if len(parts) == 3 {
		w.mode = parts[2]
	}
	if !validMode(w.mode) {
		return w, invalid("invalid mode: %s", w.mode)
	}
	modes := strings.Split(w.mode, ",")
	w.ReadOnly, w.noCopy = slices.Contains(modes, "ro"), slices.Contains(modes, "nocopy")
	w.Type = mount.TypeVolume
	if path.IsAbs(w.Source) {
		w.Type = mount.TypeBind
	} else if slices.ContainsFunc(modes, isPropagation) {
		return w, invalid("%v: invalid mount config for type %q: field BindOptions must not be specified", spec, w.Type)
	}
	err := checkTarget(w.Target)
	if err == nil && w.Type == mount.TypeVolume && w.Source == "" && w.ReadOnly {
		err = errors.New("must not set ReadOnly mode when using anonymous volumes")
	}
	if err != nil {
		return w, invalid("%v: invalid mount config for type %q: %v", spec, w.Type, err)
	}
	w.Target = path.Clean(w.Target)
	return w, nil
}

// modeKinds are the words of a bind's mode. Of each kind there may be one.
var modeKinds = [][]string{
	{"rw", "ro"}, {"z", "Z"}, {"nocopy"}, {"consistent", "cached", "delegated"},
	{"private", "rprivate", "slave", "rslave", "shared", "rshared"},
}

func isPropagation(word string) bool { return slices.Contains(modeKinds[len(modeKinds)-1], word) }

func validMode(mode string) bool {
	if mode == "" {
		return true
	}
	had := map[int]bool{}
	for _, word := range strings.Split(mode, ",") {
		kind := slices.IndexFunc(modeKinds, func(words []string) bool { return slices.Contains(words, word) })
		if kind < 0 || had[kind] {
			return false
		}
		had[kind] = true
	}
	return true
}

// parseMount checks an element of HostConfig.Mounts.
func parseMount(m mount.Mount) (wanted, error) {
	w := wanted{Mount: m}
	if err := checkMount(m); err != nil {
		return w, err
	}
	w.Target = path.Clean(m.Target)
	if o := m.VolumeOptions; o != nil {
		w.noCopy = o.NoCopy
	}
	return w, nil
}

func checkMount(m mount.Mount) error {
	refuse := func(err error) error { return invalid("invalid mount config for type %q: %v", m.Type, err) }
	if err := checkTarget(m.Target); err != nil {
		return refuse(err)
	}
	for _, extra := range []struct {
		of   mount.Type
		name string
		set  bool
	}{
		{mount.TypeBind, "BindOptions", m.BindOptions != nil}, {mount.TypeVolume, "VolumeOptions", m.VolumeOptions != nil},
		{mount.TypeImage, "ImageOptions", m.ImageOptions != nil}, {mount.TypeTmpfs, "TmpfsOptions", m.TmpfsOptions != nil},
		{mount.TypeCluster, "ClusterOptions", m.ClusterOptions != nil},
	} {
		if extra.set && extra.of != m.Type {
			return refuse(fmt.Errorf("field %s must not be specified", extra.name))
		}
	}
	switch m.Type {
	case mount.TypeVolume:
		return checkVolumeMount(m, refuse)
	case mount.TypeTmpfs:
		if m.Source != "" {
			return refuse(errors.New("field Source must not be specified"))
		}
		if _, err := tmpfsOptions(m.TmpfsOptions); err != nil {
			return refuse(err)
		}
	case mount.TypeBind:
		switch {
		case m.Source == "":
			return refuse(errors.New("field Source must not be empty"))
		case !path.IsAbs(m.Source):
			return refuse(fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Source))
		}
	case mount.TypeImage:
		return notImplemented("mounts of type image are not supported: copy what is wanted of the image into a volume")
	case mount.TypeCluster, mount.TypeNamedPipe:
		return notImplemented("mounts of type %s are not supported: want volume or tmpfs", m.Type)
	default:
		return refuse(errors.New("mount type unknown"))
	}
	return nil
}

func checkVolumeMount(m mount.Mount, refuse func(error) error) error {
	anonymous, o := m.Source == "", m.VolumeOptions
	switch {
	case o != nil && o.Subpath != "" && anonymous:
		return refuse(errors.New("must not set Subpath when using anonymous volumes"))
	case o != nil && o.Subpath != "" && !filepath.IsLocal(o.Subpath):
		return refuse(errors.New("subpath must be a relative path within the volume"))
	case m.ReadOnly && anonymous:
		return refuse(errors.New("must not set ReadOnly mode when using anonymous volumes"))
	}
	return nil
}

// tmpfsOptions writes the options of a tmpfs as mount(8) has them.
func tmpfsOptions(o *mount.TmpfsOptions) (string, error) {
	if o == nil {
		return "", nil
	}
	var all []string
	switch {
	case o.SizeBytes < 0:
		return "", fmt.Errorf("invalid size %d of a tmpfs", o.SizeBytes)
	case o.SizeBytes > 0:
		all = append(all, fmt.Sprintf("size=%d", o.SizeBytes))
	}
	if o.Mode != 0 {
		if o.Mode > 0o7777 {
			return "", fmt.Errorf("invalid mode %o of a tmpfs", uint32(o.Mode))
		}
		all = append(all, fmt.Sprintf("mode=%o", uint32(o.Mode)))
	}
	for _, option := range o.Options {
		if len(option) != 1 || option[0] != "exec" && option[0] != "noexec" {
			return "", fmt.Errorf("invalid option: %s", strings.Join(option, "="))
		}
		all = append(all, option[0])
	}
	return strings.Join(all, ","), nil
}

func checkTmpfs(all map[string]string) error {
	seen := map[string]bool{}
	for _, target := range slices.Sorted(maps.Keys(all)) {
		if err := checkTarget(target); err != nil {
			return invalid("invalid tmpfs mount %q: %v", target, err)
		}
		if err := volume.CheckTmpfs(all[target]); err != nil {
			return err
		}
		if clean := path.Clean(target); seen[clean] {
			return invalid("Duplicate mount point: %s", clean)
		} else {
			seen[clean] = true
		}
	}
	return nil
}

// parseVolumesFrom reads "CONTAINER[:MODE]".
func parseVolumesFrom(text string) (ref string, readOnly bool, err error) {
	ref, mode, _ := strings.Cut(text, ":")
	words := strings.Split(mode, ",")
	switch {
	case text == "":
		return "", false, invalid("volumes-from specification cannot be an empty string")
	case !validMode(mode), slices.Contains(words, "nocopy"), slices.ContainsFunc(words, isPropagation):
		return "", false, invalid("invalid mode: %s", mode)
	}
	return ref, slices.Contains(words, "ro"), nil
}

// byTarget orders mounts so that none lies over one that comes later.
func byTarget(a, b wanted) int {
	return cmp.Or(cmp.Compare(strings.Count(a.Target, "/"), strings.Count(b.Target, "/")), strings.Compare(a.Target, b.Target))
}
