package gaelocal_test

import (
	"regexp"
	"sync"
)

// A difference that stays: where Google's server notes what google matches,
// gaelocal may note what local matches. The package documentation lists them
// with their reasons.
type difference struct {
	name          string
	google, local *regexp.Regexp
	rest          bool // what a random call notes after it differs, too
}

var differences = []difference{
	{"exceptions", regexp.MustCompile(`service bridge returned exception$`), regexp.MustCompile(`(API|Call) error \d+`), false},
	{"long keys", regexp.MustCompile(`^(set|get|delete|increment)`), regexp.MustCompile(`memcache: INVALID_VALUE\): a key of \d+ bytes is longer than 250 bytes$`), false},
	{"half a set", regexp.MustCompile(`^get "s1": "1" flags=0$`), regexp.MustCompile(`^get "s1": memcache: cache miss$`), false},
	{"underscores in numbers", regexp.MustCompile(`: 1001 ok$`), regexp.MustCompile(`memcache: INVALID_VALUE`), false},
	{"underscores in numbers", regexp.MustCompile(`^get "n": "1001" flags=9$`), regexp.MustCompile(`^get "n": "1_000" flags=9$`), false},
	{"unknown policies", regexp.MustCompile(`^unknown policy 9: 1:1$`), regexp.MustCompile(`^unknown policy 9: 1:2$`), false},
	{"unknown policies", regexp.MustCompile(`^get "k": "6" flags=0$`), regexp.MustCompile(`^get "k": "" flags=0$`), false},
	{"required fields", regexp.MustCompile(`^(set without value|increment without key): `), regexp.MustCompile(`^(set without value|increment without key): Call error 2: .* cannot be decoded`), false},
	{"metadata", regexp.MustCompile(`^(kinds|kinds from|properties|properties of a kind): \d+ .* ok$`), regexp.MustCompile(`gaelocal has no such metadata`), false},
	{"emptied namespaces", regexp.MustCompile(`^one without entities: 1 `), regexp.MustCompile(`^one without entities: 0 `), false},
	{"costs and versions", regexp.MustCompile(`^(put|put without entity group|put with the group of another|put with id 0): fields 1×1 2×1 3×1, ok$`), regexp.MustCompile(`: fields 1×1, ok$`), false},
	{"costs and versions", regexp.MustCompile(`^(delete: fields 1×1 3×1|commit: fields 1×1 3×1|commit empty: fields 1×1), ok$`), regexp.MustCompile(`: fields , ok$`), false},
	{"id and name", regexp.MustCompile(`each key path element should have id or name but not both`), regexp.MustCompile(`each key path element should have id or name but not both`), false},
	{"large requests", regexp.MustCompile(`^put 18 MB: service bridge returned exception$`), regexp.MustCompile(`^put 18 MB: ok$`), false},
	{"projected keys and points", regexp.MustCompile(`^[kg]: 0 \[\] service bridge returned exception$`), regexp.MustCompile(`^[kg]: 1 `), false},
	{"order of key values", regexp.MustCompile(`^key values.*`), regexp.MustCompile(`^key values.*`), false},
	{"batches", regexp.MustCompile(`^(all: 20|negative limit: 24) results cursor 3:1 4:0$`), regexp.MustCompile(`^(all|negative limit): 25 results 3:0 4:0$`), false},
	{"count on the wire", regexp.MustCompile(`^count: fields , service bridge returned exception$`), regexp.MustCompile(`^count: fields 1×1, ok$`), false},
	{"indices", regexp.MustCompile(`^indices: ok$`), regexp.MustCompile(`GetIndices`), false},
	{"cursors in lists", regexp.MustCompile(`^(projection: )?page \d+: .*Cursor does not match query: extra value`), regexp.MustCompile(`page \d+: `), true},
	{"projected keys and points", regexp.MustCompile(`^projection: .*service bridge returned exception$`), regexp.MustCompile(`^projection: `), true},
	{"metadata entities", regexp.MustCompile(`^get [^ ]*/__kind__,a: service bridge returned exception$`), regexp.MustCompile(`.`), false},
}

// usedDifferences are the names of those that were met.
var usedDifferences sync.Map

// listed returns the difference that stays which this is, or nil.
func listed(google, local string) *difference {
	for i, d := range differences {
		if d.google.MatchString(google) && d.local.MatchString(local) {
			return &differences[i]
		}
	}
	return nil
}
