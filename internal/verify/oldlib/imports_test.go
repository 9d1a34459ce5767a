package oldlib_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Package interleave may, and is itself for tests alone.
func TestOnlyTestsImportThisPackage(t *testing.T) {
	const verify = "github.com/gaesession/gaesession/internal/verify/"
	root := filepath.Join("..", "..", "..")
	explorer := filepath.Join(root, "internal", "verify", "interleave")
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil || imported == verify+"interleave" || imported == verify+"oldlib" && filepath.Dir(name) != explorer {
				t.Errorf("%s imports %s (%v)", name, imported, err)
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("read %d files: %v", files, err)
	}
}
