// Package files reads and writes the files of containers, for docker cp, export, diff and commit: by the tether of one that runs, and else
// by a helper, a machine of its own that has the container's disks while nobody else has them.
package files
