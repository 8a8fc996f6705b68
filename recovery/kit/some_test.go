package kit

// someSignature is well formed and fits no document of these tests.
const someSignature = `-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg1R30+zsdpT6bOwC1TISGrGsd3F
TLxi+t5enWF0YiTZwAAAAOYmxhY2tzdGFydC1raXQAAAAAAAAABnNoYTUxMgAAAFMAAAAL
c3NoLWVkMjU1MTkAAABA6t1ohM3IvgpF6ciXVEb72lCibPG1L6vefAU5GnTb0RYxYEwmS6
li3Y2w49hpnf44NwH6PQvRKCWd8SGgUaxeDg==
-----END SSH SIGNATURE-----
`
