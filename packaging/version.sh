# Functions that name the version of the packages. $tree is the source tree.

# in_git ARGUMENT...: runs git in the source tree. Ignores a git repository that only surrounds the source tree.
in_git() { [ "$(git -C "$tree" rev-parse --show-toplevel 2>/dev/null)" -ef "$tree" ] && git -C "$tree" "$@"; }

# package_version: the version of Cargo.toml. Unless the commit has the tag of this version, its time (UTC) and name follow:
# 0.1.0~git20261127042138.ee1bcfb1d3d0 comes before 0.1.0, and after the versions of earlier commits.
package_version() {
    # Debian sorts 1.0~rc.1, not 1.0-rc.1, before 1.0.
    version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$tree/Cargo.toml" | sed 's/-/~/')
    [ -n "$version" ] || return 1
    if commit=$(TZ=UTC in_git log -1 --abbrev=12 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h) &&
        ! in_git tag --points-at HEAD | sed 's/-/~/' | grep -qx "v$version"; then
        version=$version~git$commit
    fi
    printf '%s\n' "$version"
}
