package gaesession_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/scsstore"
)

// Every option has a row in the table of the README.
func TestTheREADMEsHaveARowForEachOption(t *testing.T) {
	for file, options := range map[string]any{
		"README.md":              gaesession.MemcacheStoreOptions{},
		"cascadestore/README.md": cascadestore.CascadeStore{},
		"scsstore/README.md":     scsstore.Options{},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, section, found := strings.Cut(string(text), "\n## Options\n")
		if !found {
			t.Fatalf("%s has no options", file)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		rows := map[string]int{}
		for _, line := range strings.Split(section, "\n") {
			if cells := strings.Split(line, "|"); len(cells) > 2 {
				for _, name := range strings.Split(cells[1], ",") {
					rows[strings.Trim(name, " `")]++
				}
			}
		}
		typ := reflect.TypeOf(options)
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() && rows[f.Name] != 1 {
				t.Errorf("%s: %d rows for the option %s, want one", file, rows[f.Name], f.Name)
			}
		}
		for name := range rows {
			if _, known := typ.FieldByName(name); !known && name != "option" && name != "field" && strings.Trim(name, "-") != "" {
				t.Errorf("%s: a row for %q, which is no option", file, name)
			}
		}
	}
}
