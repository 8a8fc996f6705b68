package graph

import "github.com/goccy/go-yaml/ast"

// maxShared bounds the nodes that the aliases of a file stand for: a few of them can make a small file endless.
const maxShared = 200_000

// alias is what its anchor is, at another place.
func (b *builder) alias(v *ast.AliasNode, at node) node {
	n, ok := b.anchors[v.Value.String()]
	if !ok {
		b.at(&at, "there is no anchor %.80s above", v.Value.String())
		return at
	}
	if b.shared += n.size(maxShared); b.shared > maxShared {
		b.at(&at, "aliases stand for too much")
		return at
	}
	n.line, n.column = at.line, at.column
	return n
}

// size counts a node and all in it, up to a bound.
func (n *node) size(most int) int {
	count := 1
	for i := 0; i < len(n.items) && count <= most; i++ {
		count += n.items[i].size(most - count)
	}
	for i := 0; i < len(n.pairs) && count <= most; i++ {
		count += n.pairs[i].value.size(most - count)
	}
	return count
}

// merge adds the keys of merged mappings that a mapping does not have itself (YAML's merge key, <<).
func (b *builder) merge(out *node, values []*ast.MappingValueNode, depth int) {
	for _, m := range values {
		if _, ok := m.Key.(*ast.MergeKeyNode); !ok {
			continue
		}
		from := b.build(m.Value, depth+1)
		all := []node{from}
		if from.shape == list {
			all = from.items
		}
		for _, one := range all {
			if one.shape != mapping {
				b.at(&one, "want a mapping to merge, got %s", one.shape)
				return
			}
			have := make(map[string]bool, len(out.pairs))
			for i := range out.pairs {
				have[out.pairs[i].key] = true
			}
			for _, p := range one.pairs {
				if !have[p.key] {
					out.pairs = append(out.pairs, p)
				}
			}
		}
	}
}
