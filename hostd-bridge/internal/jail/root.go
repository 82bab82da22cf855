package jail

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// inside is the supervisor's program in a jail.
const inside = "/cvm-supervisor"

// listTime bounds how long the dynamic loader may take to name a program's libraries.
const listTime = 10 * time.Second

// maxInterpreter bounds the name of a program's loader, in bytes.
const maxInterpreter = 4096

// dataFiles are what QEMU may read beside its program, below a share directory: the kernel's starters and firmware of both machine types.
var dataFiles = [...]string{
	"qemu/pvh.bin", "qemu/linuxboot.bin", "qemu/linuxboot_dma.bin", "qemu/kvmvapic.bin", "qemu/qboot.rom", "qemu/bios-microvm.bin",
	"qemu/bios-256k.bin", "seabios/bios-256k.bin", "seabios/bios-microvm.bin", "qemu/bios.bin", "seabios/bios.bin",
}

// rootFiles names what QEMU needs to run: itself, its loader and libraries, its accelerator's module and its data. Each is at the same
// path in the jail.
func rootFiles(ctx context.Context, qemu string) ([]string, error) {
	programs := []string{qemu}
	for _, pattern := range []string{"lib/qemu", "lib/*/qemu", "lib64/qemu"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(qemu), "..", pattern, "accel-tcg-x86_64.so"))
		if err != nil {
			return nil, err
		}
		programs = append(programs, found...)
	}
	files := programs
	for _, p := range programs {
		libraries, err := libraries(ctx, p)
		if err != nil {
			return nil, err
		}
		files = append(files, libraries...)
	}
	if len(files) > len(programs) {
		files = append(files, existing("/etc/ld.so.cache")...)
	}
	for _, f := range dataFiles {
		files = append(files, existing(filepath.Join(filepath.Dir(qemu), "..", "share", f))...)
	}
	for i, f := range files {
		files[i] = filepath.Clean(f)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// existing is path, if there is a regular file.
func existing(path string) []string {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	return []string{path}
}

// libraries asks a program's own loader for the loader and the libraries that the program is linked with; the loader runs nothing of the
// program. A module has its program's loader.
func libraries(ctx context.Context, program string) ([]string, error) {
	loader, err := loaderOf(program)
	if err != nil || loader == "" {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	list := exec.CommandContext(ctx, loader, "--list", program)
	list.Env = []string{}
	out, err := list.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return nil, fmt.Errorf("cannot find the libraries of %s: %w", program, err)
	}
	return append(parseLibraries(string(out)), loader), nil
}

// parseLibraries reads the loader's list: a line is "NAME => PATH (ADDRESS)" or, of the loader itself, "PATH (ADDRESS)".
func parseLibraries(list string) (paths []string) {
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, " (0x")
		if _, path, found := strings.Cut(line, " => "); found {
			line = path
		}
		if line = strings.TrimSpace(line); filepath.IsAbs(line) {
			paths = append(paths, line)
		}
	}
	return paths
}

// loaderOf is the dynamic loader that a program or a module is for; none for a static program.
func loaderOf(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("cannot put %s into a jail: it is no program: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(io.LimitReader(p.Open(), maxInterpreter))
			return string(bytes.TrimRight(name, "\x00")), err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil || len(needed) == 0 {
		return "", err
	}
	for _, usual := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-x86-64.so.2"} {
		if _, err := os.Stat(usual); err == nil {
			return usual, nil
		}
	}
	return "", fmt.Errorf("cannot find the dynamic loader for %s: %w", program, fs.ErrNotExist)
}
