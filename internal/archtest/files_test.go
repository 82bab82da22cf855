package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makers are functions that make a file where a link leads, if one lies there.
func makers() []string { return []string{"Create", "WriteFile", "CreateTemp"} }

// TestFilesAreMadeByTrusted: the daemons make files in their state and run directories by package trusted, which follows no link, or as new
// ones (O_EXCL).
func TestFilesAreMadeByTrusted(t *testing.T) {
	looked := 0
	for _, dir := range []string{"cmd/cvm", "controller/daemon", "hostd-bridge/daemon", "hostd-bridge/internal/netswitch", "hostd-bridge/netswitch", "hostd-bridge/internal/datastore", "hostd-bridge/internal/relay", "hostd-bridge/internal/vim", "hostd-bridge/internal/vm/networks", "hostd-bridge/internal/vm/lifecycle", "hostd-bridge/internal/vm/prestart"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
				return err
			}
			looked++
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if f, ok := call.Fun.(*ast.SelectorExpr); ok && makesFile(f, call.Args) {
					t.Errorf("%s makes a file by os.%s: use internal/trusted", fset.Position(call.Pos()), f.Sel.Name)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if looked < 30 {
		t.Errorf("only %d files were looked at", looked)
	}
}

func makesFile(f *ast.SelectorExpr, args []ast.Expr) bool {
	if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "os" {
		return false
	}
	if slices.Contains(makers(), f.Sel.Name) {
		return true
	}
	if f.Sel.Name != "OpenFile" || len(args) != 3 {
		return false
	}
	makes, fresh := false, false
	ast.Inspect(args[1], func(n ast.Node) bool {
		if flag, ok := n.(*ast.Ident); ok {
			makes, fresh = makes || flag.Name == "O_CREATE", fresh || flag.Name == "O_EXCL"
		}
		return true
	})
	return makes && !fresh
}
