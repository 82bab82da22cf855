// Package testimage makes container images out of nothing: layers from lists of entries, and archives of them in the
// forms that tools write. Tests use it, those with malicious layers too.
package testimage
