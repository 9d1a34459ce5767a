package gaesession_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// files returns the texts of the repository's files with that ending, by their
// slash-separated paths.
func files(t *testing.T, ext string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "vendor", "testdata"}, d.Name()):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ext:
			return nil
		}
		text, err := os.ReadFile(name)
		texts[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// Where the exported fields of a type have their rows: a file, and a heading in it.
var tables = map[string][2]string{
	"gaesession.Sessions":             {"docs/options.md", "Sessions"},
	"gaesession.Cookie":               {"docs/options.md", "Cookie"},
	"gaesession.MemcacheStoreOptions": {"docs/options.md", "MemcacheStoreOptions"},
	"rediscache.Options":              {"docs/options.md", "rediscache.Options"},
	"clouddatastore.Options":          {"docs/options.md", "clouddatastore.Options"},
	"gaelocal.Options":                {"docs/options.md", "gaelocal.Options"},
	"scsstore.Options":                {"scsstore/README.md", "Options"},
	"cascadestore.CascadeStore":       {"cascadestore/README.md", "Options"},
}

func TestEveryOptionHasARow(t *testing.T) {
	pages := files(t, ".md")
	for name, fields := range optionTypes(t) {
		table, known := tables[name]
		if !known {
			t.Errorf("%s has options, and this test does not know their table", name)
			continue
		}
		if table[0] != "README.md" && !strings.Contains(pages["README.md"], "("+table[0]+")") {
			t.Errorf("README.md has no link to %s", table[0])
		}
		rows := tableUnder(pages[table[0]], table[1])
		for _, field := range fields {
			if rows[field] != 1 {
				t.Errorf("%s: %d rows for %s.%s, want one", table[0], rows[field], name, field)
			}
		}
		for row := range rows {
			if !slices.Contains(fields, row) {
				t.Errorf("%s: a row for %q, which is no field of %s", table[0], row, name)
			}
		}
	}
}

// optionTypes returns the exported fields of the types that say how a package of
// this repository works. It reads the source, as some of the packages are modules.
func optionTypes(t *testing.T) map[string][]string {
	types := map[string][]string{}
	for name, text := range files(t, ".go") {
		if strings.HasPrefix(name, "_") || strings.HasPrefix(name, "cmd/") || strings.Contains(name, "internal/") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE {
				continue
			}
			for _, s := range decl.Specs {
				spec := s.(*ast.TypeSpec)
				fields, ok := spec.Type.(*ast.StructType)
				isOptions := strings.HasSuffix(spec.Name.Name, "Options") || slices.Contains([]string{"Sessions", "Cookie", "CascadeStore"}, spec.Name.Name)
				if !ok || !spec.Name.IsExported() || !isOptions {
					continue
				}
				typ := file.Name.Name + "." + spec.Name.Name
				for _, f := range fields.Fields.List {
					for _, n := range f.Names {
						if n.IsExported() {
							types[typ] = append(types[typ], n.Name)
						}
					}
				}
			}
		}
	}
	return types
}

// tableUnder counts the names in the first column of the table under a heading.
func tableUnder(page, heading string) map[string]int {
	rows := map[string]int{}
	_, section, _ := strings.Cut(page, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, section, _ = strings.Cut(section, "|---") // the head
	for _, line := range strings.Split(section, "\n")[1:] {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, name := range strings.Split(cells[1], ",") {
				rows[strings.Trim(name, " `")]++
			}
		}
	}
	return rows
}

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)\n[ \t]*```")

// The Go code of the pages stands in files that are compiled, most of it in tests.
// Indentation and empty lines do not count.
func TestTheGoCodeOfThePagesIsCompiled(t *testing.T) {
	lines := func(code string) string {
		var all []string
		for _, line := range strings.Split(code, "\n") {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, line)
			}
		}
		return "\n" + strings.Join(all, "\n") + "\n"
	}
	var sources []string
	for _, text := range files(t, ".go") {
		sources = append(sources, lines(text))
	}
	blocks := 0
	for name, page := range files(t, ".md") {
		for _, block := range goBlock.FindAllStringSubmatch(page, -1) {
			blocks++
			code := lines(block[1])
			if !slices.ContainsFunc(sources, func(source string) bool { return strings.Contains(source, code) }) {
				t.Errorf("%s: this code is in no Go file:\n%s", name, block[1])
			}
		}
	}
	if blocks == 0 {
		t.Error("the pages have no Go code")
	}
}

// Every test, benchmark, fuzz target and example that a page names is there.
func TestTheTestsThatThePagesNameExist(t *testing.T) {
	const kinds = `(?:Test|Benchmark|Fuzz|Example)[A-Z]\w+`
	known := map[string]bool{}
	for _, text := range files(t, ".go") {
		for _, f := range regexp.MustCompile(`(?m)^func (`+kinds+`)\(`).FindAllStringSubmatch(text, -1) {
			known[f[1]] = true
		}
	}
	for name, page := range files(t, ".md") {
		for _, test := range regexp.MustCompile(`\b`+kinds).FindAllString(page, -1) {
			if !known[test] {
				t.Errorf("%s names %s, which does not exist", name, test)
			}
		}
	}
}

// Every part of a pattern that a page gives to go test finds something.
func TestThePatternsOfThePagesFindTests(t *testing.T) {
	var names []string
	for _, text := range files(t, ".go") {
		for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz|Example)\w*)\(`).FindAllStringSubmatch(text, -1) {
			names = append(names, f[1])
		}
	}
	for name, page := range files(t, ".md") {
		for _, run := range regexp.MustCompile(`-(?:run|bench|fuzz)[ =](?:'([^']+)'|([\w.^$]+))`).FindAllStringSubmatch(page, -1) {
			pattern := run[1] + run[2]
			if pattern == "^$" {
				continue
			}
			for _, part := range strings.Split(pattern, "|") {
				found, err := regexp.Compile(part)
				if err != nil || !slices.ContainsFunc(names, found.MatchString) {
					t.Errorf("%s: the pattern %q finds no test: %v", name, part, err)
				}
			}
		}
	}
}

// Every link of a page to another file, or to a heading, leads there.
func TestTheLinksOfThePagesLeadSomewhere(t *testing.T) {
	pages := files(t, ".md")
	anchors := map[string][]string{}
	for name, page := range pages {
		for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
			h := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(h[1]), "")
			anchors[name] = append(anchors[name], strings.ReplaceAll(h, " ", "-"))
		}
	}
	for name, page := range pages {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(page, -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			target, anchor, hasAnchor := strings.Cut(link[1], "#")
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %s: %v", name, link[1], err)
			} else if hasAnchor && !slices.Contains(anchors[file], anchor) {
				t.Errorf("%s: %s: no such heading", name, link[1])
			}
		}
	}
}
