package salvage

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// The columns of sqlite_schema (section 2.6 of the file format), the table whose
// root is page 1.
const (
	sqliteSchemaType = 0
	sqliteSchemaName = 1
	sqliteSchemaRoot = 3
	sqliteSchemaSQL  = 4
)

// rows returns what is readable of a table, of each row the texts or blobs of the
// named columns, nil for what is neither. A row's bytes are not used again.
func (db *sqliteDB) rows(table string, columns ...string) iter.Seq[[][]byte] {
	return func(yield func([][]byte) bool) {
		db.read = map[uint32]struct{}{}
		root, places, err := db.table(table, columns)
		if err != nil {
			db.broken(err)
			return
		}
		db.walk(root, func(r sqliteRecord) bool {
			values := make([][]byte, len(places))
			for i, place := range places {
				values[i] = r.text(place)
			}
			return yield(values)
		})
	}
}

// table finds a table's root page and where its rows have columns.
func (db *sqliteDB) table(name string, columns []string) (uint32, []int, error) {
	var root uint32
	var statement string
	db.walk(1, func(r sqliteRecord) bool {
		if string(r.text(sqliteSchemaType)) != "table" || !strings.EqualFold(string(r.text(sqliteSchemaName)), name) {
			return true
		}
		root, statement = r.page(sqliteSchemaRoot), string(r.text(sqliteSchemaSQL))
		return false
	})
	if root == 0 {
		return 0, nil, fmt.Errorf("table %s: %w", name, errors.Join(ErrIncomplete, errors.New("not in the schema")))
	}
	there := sqliteColumns(statement)
	var places []int
	for _, column := range columns {
		place := slices.IndexFunc(there, func(s string) bool { return strings.EqualFold(s, column) })
		if place < 0 {
			return 0, nil, fmt.Errorf("table %s: column %s is not among %q", name, column, there)
		}
		places = append(places, place)
	}
	return root, places, nil
}

// sqliteColumns returns the names of the columns in a CREATE TABLE statement, in
// order. Of each definition only the first word is read.
func sqliteColumns(statement string) []string {
	var columns []string
	depth, begins := 0, false
	for statement != "" {
		var word string
		var quoted bool
		word, quoted, statement = sqliteWord(statement)
		switch {
		case word == "" && !quoted:
		case !quoted && word == "(":
			depth++
			begins = depth == 1
		case !quoted && word == ")":
			depth--
			if depth == 0 {
				return columns
			}
		case !quoted && word == ",":
			begins = depth == 1
		case begins:
			if !quoted && slices.Contains([]string{"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"}, strings.ToUpper(word)) {
				return columns // what the table has to satisfy comes last
			}
			columns = append(columns, word)
			begins = false
		}
	}
	return columns
}

// sqliteWord takes the first word, quoted name or other character from a
// statement. It is empty for space and comments.
func sqliteWord(s string) (word string, quoted bool, rest string) {
	switch {
	case strings.HasPrefix(s, "--"):
		_, rest, _ = strings.Cut(s, "\n")
		return "", false, rest
	case strings.HasPrefix(s, "/*"):
		_, rest, _ = strings.Cut(s[2:], "*/")
		return "", false, rest
	case s[0] == '[':
		word, rest, _ = strings.Cut(s[1:], "]")
		return word, true, rest
	case strings.ContainsRune("'\"`", rune(s[0])):
		mark := s[:1]
		for s = s[1:]; ; {
			before, after, _ := strings.Cut(s, mark)
			word += before
			if !strings.HasPrefix(after, mark) {
				return word, true, after
			}
			word += mark // a doubled one stands for itself
			s = after[1:]
		}
	case strings.ContainsRune(" \t\r\n\f", rune(s[0])):
		return "", false, s[1:]
	}
	end := strings.IndexFunc(s, func(r rune) bool { return r < 0x80 && r != '_' && r != '$' && !sqliteLetter(r) })
	switch end {
	case -1:
		end = len(s)
	case 0:
		end = 1
	}
	return s[:end], false, s[end:]
}

func sqliteLetter(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}
