# Functions that delete microkube's stored files.

# The directories that microkube creates in its state and run directories, and its only file there (src/state/paths.rs).
entries='events images logs machine network pods scratch store volumes'
key=service-account.key

# empty DIR: deletes the content of a directory, except mount points and everything below them
empty() {
    directory=$1
    set -- -xdev -depth -mindepth 1
    # -xdev alone does not stop at a bind mount of the same file system.
    # Without /proc, as in the build of an image, there are no mount points to find.
    if [ -r /proc/self/mounts ]; then
        while read -r _ mount _; do
            # Characters such as the space are written as \ooo.
            case $mount in "$directory"/*) set -- "$@" ! -path "$(printf '%s' "$mount" | sed 's/\\[0-7][0-7][0-7]/?/g')/*" ;; esac
        done </proc/self/mounts
    fi
    find "$directory" "$@" -delete 2>/dev/null || true
}

# remove_entry PATH: deletes a file, or a directory with its content. A mount point stays. The target of a symbolic link
# is deleted only if the link stands in for one of microkube's own directories.
remove_entry() {
    case " $entries " in
        *" ${1##*/} "*) ;;
        *) [ ! -L "$1" ] || rm -f "$1" ;;
    esac
    if [ -d "$1" ]; then
        target=$(cd -P "$1" && pwd -P) || return 0
        [ "$target" != / ] || return 0
        empty "$target"
        rmdir "$target" 2>/dev/null || true
        left=$(find "$target" -xdev -mindepth 1 2>/dev/null | head -n 1)
        [ -z "$left" ] || echo "microkube: not everything in $target is deleted (mount points stay), for example $left" >&2
    fi
    [ ! -L "$1" ] || rm -f "$1"
}

# remove_directory DIR: deletes a directory of microkube and its content
remove_directory() {
    if [ -L "$1" ]; then
        # The directory behind the link may have files of others.
        for name in $entries; do remove_entry "$1/$name"; done
        rm -f "$1/$key"
        if target=$(cd -P "$1" 2>/dev/null && pwd -P) && ! rmdir "$target" 2>/dev/null; then
            echo "microkube: $target, which $1 links to, is not deleted: it has other files" >&2
        fi
        rm -f "$1"
    else
        for entry in "$1"/* "$1"/.[!.]* "$1"; do remove_entry "$entry"; done
    fi
}

# remove_state: records, logs, images and the configuration file
remove_state() {
    file=/etc/microkube/config.yaml
    if [ -f "$file" ]; then
        # Only the key paths.state has this name.
        sed -n '/^[[:space:]]*#/d; s/^\(.*[{,[:space:]]\)\{0,1\}["'\'']\{0,1\}state["'\'']\{0,1\}:[[:space:]]*["'\'']\{0,1\}\(\/[^]"'\'',}#]*\).*/\2/p' "$file" |
            sed 's/[[:space:]]*$//' | while read -r directory; do
                [ "$directory" = /var/lib/microkube ] ||
                    echo "microkube: $directory (paths.state in $file) stays, with records and images: delete it yourself" >&2
            done
    fi
    remove_directory /run/microkube
    remove_directory /var/lib/microkube
    rm -f "$file"
    rmdir /etc/microkube 2>/dev/null || true
}
