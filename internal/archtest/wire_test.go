package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// contract is a package that owns words of a wire: only its own files may have them as literals.
type contract struct {
	owner string // directory
	// exact matches whole literals, parts what no literal may have in it.
	exact, parts *regexp.Regexp
}

// contracts are the packages that say what is written between programs, each once.
func contracts() []contract {
	return []contract{
		{
			owner: "hostd-bridge/hostapi",
			exact: regexp.MustCompile(`^(cvm\.(boot\..*|host\..*|machine)|guestinfo\.|diskAtFork|cvm-volumes|64 << 30)$`),
			parts: regexp.MustCompile(`(^|GET )/cvm(/|$)|/cvm/(extensions|pools|memory|metrics|vsock|log)|^cvm/boot/current\.json|root\.vmdk|stdio\.log|console\.log|10\.0\.2\.[0-9]|cvm-vsock|(?i:Cvm-Log-)`),
		},
		{
			owner: "tether/link",
			exact: regexp.MustCompile(`^cvm\.(time|wait|seed)$`),
			parts: regexp.MustCompile(`guestinfo\.cvm\.|guestinfo\.ip$|instantclone\.freeze`),
		},
		{
			owner: "controller/internal/record",
			exact: regexp.MustCompile(`^cvm\.(role|name|container|start|template)$|^fork-source$`),
		},
	}
}

// TestWireNames: a word of a wire stands in the package that owns it, and nowhere else but in tests.
func TestWireNames(t *testing.T) {
	root := "../.."
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path) // cannot fail: path begins with root
		switch {
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go"):
			return nil
		}
		all, err := literals(path)
		for _, l := range all {
			for _, c := range contracts() {
				switch {
				case !c.owns(l.text):
				case within(filepath.Dir(rel), c.owner):
					found[c.owner] = true
				default:
					t.Errorf("%s:%d: %q belongs to %s", rel, l.line, l.text, c.owner)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contracts() {
		if !found[c.owner] {
			t.Errorf("%s has none of its words: the rule holds nothing", c.owner)
		}
	}
}

func (c *contract) owns(text string) bool {
	return c.exact != nil && c.exact.MatchString(text) || c.parts != nil && c.parts.MatchString(text)
}

func within(dir, owner string) bool { return dir == owner || strings.HasPrefix(dir, owner+"/") }

// literal is a text of a program, or a number that it shifts.
type literal struct {
	text string
	line int
}

// literals are the strings of a file but for its imports and tags, and its shifts of numbers.
func literals(path string) (all []literal, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			n.Tag = nil
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
				all = append(all, literal{text, set.Position(n.Pos()).Line})
			}
		case *ast.BinaryExpr:
			x, ok1 := n.X.(*ast.BasicLit)
			y, ok2 := n.Y.(*ast.BasicLit)
			if ok1 && ok2 && n.Op == token.SHL {
				all = append(all, literal{x.Value + " << " + y.Value, set.Position(n.Pos()).Line})
			}
		}
		return true
	})
	return all, nil
}

// TestContracts: the rule finds what it is for, and no more.
func TestContracts(t *testing.T) {
	for text, want := range map[string]string{
		"cvm.host.exit": "hostd-bridge/hostapi", "cvm.boot.new": "hostd-bridge/hostapi", "GET /cvm/log/{moref}": "hostd-bridge/hostapi",
		"/root.vmdk": "hostd-bridge/hostapi", "64 << 30": "hostd-bridge/hostapi", "10.0.2.15/24": "hostd-bridge/hostapi",
		"CVM-Log-Offset": "hostd-bridge/hostapi", "guestinfo.": "hostd-bridge/hostapi",
		"/cvm":               "hostd-bridge/hostapi",
		"guestinfo.cvm.spec": "tether/link", "cvm.seed": "tether/link", "cvm.role": "controller/internal/record",
		"cvm.sock": "", "cvm-template-": "", "64 << 20": "", "http://cvm/x": "", "/dev/cvm": "", "cvm/layers/": "", "guestinfo.other": "", "cvm.poweroff": "",
	} {
		owner := ""
		for _, c := range contracts() {
			if c.owns(text) {
				owner = c.owner
			}
		}
		if owner != want {
			t.Errorf("%q belongs to %q, want %q", text, owner, want)
		}
	}
}
