package e2e

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// secretsPackages are the interpreters of Debian 12 whose random numbers are looked at. Python's ssl and Node's crypto are OpenSSL 3.0.
const secretsPackages = "python3,nodejs,openjdk-17-jdk-headless"

// secretsOf says of each way to draw random numbers whether the first that two forks of a running program draw are the same: the table of
// docs/forks-and-secrets.md, line by line.
func secretsOf() map[string]map[string]bool {
	return map[string]map[string]bool{
		"python": {
			"ssl.RAND_bytes": true, "TLS hello": true, "random": true,
			"os.urandom": false, "secrets": false, "uuid4": false, "ssl.RAND_bytes after RAND_add": false,
			"MADV_WIPEONFORK": false,
		},
		"node": {"crypto.randomBytes": true, "crypto.randomUUID": true, "crypto.webcrypto": true, "Math.random": true, "TLS hello": true},
		"java": {
			"SecureRandom": false, "UUID.randomUUID": false, "TLS hello": false,
			"SecureRandom DRBG": true, "SecureRandom SHA1PRNG": true, "Random": true,
		},
		"go": {"crypto/rand": false, "rand.Int": false, "TLS hello": false, "math/rand/v2": true},
	}
}

// TestForkSecrets forks running programs of several languages into two, which draw as soon as /dev/cvm/generation says so.
func TestForkSecrets(t *testing.T) {
	if !isLong() {
		t.Skip("takes minutes and a Debian root of 600 MB; try: " + longVariable + "=1")
	}
	h := loaded(t, vmtest.Options{Fork: true})
	h.MustDocker(t, "import", debianRoot(t, secretsPackages), "secrets:test")
	program := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/secrets")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for language, run := range map[string][]string{
		"python": {"python3", "/draw.py"}, "node": {"node", "/draw.js"}, "java": {"java", "/Draw.java"}, "go": {"/program"},
	} {
		last := map[string]string{"python": "ssl.RAND_bytes after RAND_add"}[language] // the others draw a hello at last
		t.Run(language, func(t *testing.T) {
			h.MustDocker(t, append([]string{"create", "--name", language, "secrets:test"}, run...)...)
			source := program
			if name := filepath.Base(run[len(run)-1]); language != "go" {
				source = filepath.Join("testdata/secrets", name)
			}
			h.MustDocker(t, "cp", source, language+":"+run[len(run)-1])
			h.MustDocker(t, "start", language)
			waitLog(t, h, language, "ready")
			children := fork(t, h, language, "-n", "2")
			var drawn [2]map[string]string
			for i, c := range children {
				waitLog(t, h, c.ID, "drew "+cmp.Or(last, "TLS hello")+" =")
				drawn[i] = drawnBy(h.MustDocker(t, "logs", c.ID))
			}
			h.MustDocker(t, "rm", "-f", language, children[0].ID, children[1].ID)
			for way, same := range secretsOf()[language] {
				a, b := drawn[0][way], drawn[1][way]
				t.Logf("%s %s: %s", language, way, map[bool]string{true: "the same", false: "different"}[a == b])
				if a == "" || b == "" || (a == b) != same {
					t.Errorf("%s: %q and %q; the same: %v, want %v", way, a, b, a == b, same)
				}
			}
		})
	}
}

// drawnBy are the numbers of a program's log by the way in which they were drawn.
func drawnBy(log string) map[string]string {
	all := map[string]string{}
	for _, line := range strings.Split(log, "\n") {
		if way, number, ok := strings.Cut(strings.TrimPrefix(line, "drew "), " = "); ok && strings.HasPrefix(line, "drew ") {
			all[way] = number
		}
	}
	return all
}
