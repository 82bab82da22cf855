// Mkdemoimage writes the image busybox:demo, an OCI image layout in a tar, from Debian's busybox-static.
//
//	mkdemoimage -busybox /bin/busybox -o bin/busybox-demo.tar
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/containervm/containervm/internal/demoimage"
)

func main() {
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox")
	out := flag.String("o", "", "the tar to write")
	name := flag.String("name", "busybox:demo", "name of the image")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := build(*out, *name, *busybox); err != nil {
		fmt.Fprintln(os.Stderr, "mkdemoimage:", err)
		os.Exit(1)
	}
}

func build(out, name, busybox string) error {
	source, err := read(name, busybox)
	if err != nil {
		return err
	}
	f, err := os.Create(out + ".new")
	if err != nil {
		return fmt.Errorf("cannot create image: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := demoimage.Write(f, source); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return fmt.Errorf("cannot put image in place: %w", err)
	}
	return nil
}

// read asks the program itself which applets it holds. The image's date is the program's: that of its package.
func read(name, busybox string) (demoimage.Source, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return demoimage.Source{}, fmt.Errorf("cannot read busybox (Debian: busybox-static): %w", err)
	}
	info, err := os.Stat(busybox)
	if err != nil {
		return demoimage.Source{}, fmt.Errorf("cannot read date of busybox: %w", err)
	}
	list, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return demoimage.Source{}, fmt.Errorf("cannot list applets of %s: %w", busybox, err)
	}
	return demoimage.Source{
		Name: name, Busybox: program, Applets: strings.Fields(string(list)), Created: info.ModTime().UTC().Truncate(1e9),
	}, nil
}
