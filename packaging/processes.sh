# Functions that find and end processes of an installation, whose programs are in the directory BIN. BIN has no symbolic links.

# argument PROCESS OPTION: the value of an option
argument() {
    tr '\0' '\n' <"$1/cmdline" | awk -v option="$2" 'previous == option { print; exit } { previous = $0 }'
}

# runs PROCESS FILE: whether it runs this program. The file may have been replaced since. In a chroot with the host's
# /proc, the paths of the host's processes are those of the host.
runs() {
    case $(readlink "$1/exe") in
        "$2") [ "$1/exe" -ef "$2" ] ;;
        # A VMM has an empty root, but the supervisor that started it has not.
        "$2 (deleted)")
            [ "$1/root" -ef / ] || [ "/proc/$(sed -n 's/^PPid:[[:space:]]*//p' "$1/status")/root" -ef / ]
            ;;
        *) false ;;
    esac
}

# pids_of FILE: PIDs of the processes that run a program, except in containers
pids_of() {
    for process in /proc/[0-9]*; do
        if [ "$process/ns/pid" -ef /proc/self/ns/pid ] && runs "$process" "$1"; then printf '%s ' "${process#/proc/}"; fi
    done 2>/dev/null
}

# is_machine PROCESS: whether it is QEMU with an emulated host
is_machine() {
    case $(readlink "$1/exe") in */qemu-system-x86_64 | */'qemu-system-x86_64 (deleted)') ;; *) return 1 ;; esac
    [ "$(argument "$1" -name)" = microkube-machine ]
}

# is_machine_of PROCESS BIN: whether the kernel of this emulated host belongs to this installation
is_machine_of() { [ "$(argument "$1" -kernel)" = "${2%/*}/lib/microkube/machine/vmlinuz" ] && [ "$1/root" -ef / ]; }

# machines_of BIN: PIDs of the emulated hosts of this installation
machines_of() {
    for process in /proc/[0-9]*; do
        if [ "$process/ns/pid" -ef /proc/self/ns/pid ] && is_machine "$process" && is_machine_of "$process" "$1"; then
            printf '%s ' "${process#/proc/}"
        fi
    done 2>/dev/null
}

# others BIN: supervisors, VMMs and emulated hosts of other installations, as PID and program. All installations use the bridge, the rules
# and, by default, the directories that this one uses.
others() {
    for process in /proc/[0-9]*; do
        [ "$process/ns/pid" -ef /proc/self/ns/pid ] || [ "$process/ns/net" -ef /proc/self/ns/net ] || continue
        program=$(readlink "$process/exe") || continue
        program=${program% (deleted)}
        case ${program##*/} in
            microkube | microkube-vmm)
                case $(tr '\0' '\n' <"$process/cmdline" | sed -n 2p) in supervise | supervised) ;; *) continue ;; esac
                ! runs "$process" "$1/${program##*/}" || continue
                ;;
            qemu-system-x86_64)
                is_machine "$process" && ! is_machine_of "$process" "$1" || continue
                ;;
            *) continue ;;
        esac
        printf '%s (%s) ' "${process#/proc/}" "$program"
    done 2>/dev/null
}

# end WHAT COMMAND...: ends the processes whose PIDs the command prints: SIGTERM, and SIGKILL after 5 s
end() {
    what=$1
    shift
    for signal in TERM KILL; do
        attempts=25
        while pids=$("$@") && [ -n "$pids" ] && [ "$attempts" -gt 0 ]; do
            kill -s "$signal" $pids 2>/dev/null || true
            sleep 0.2
            attempts=$((attempts - 1))
        done
    done
    [ -z "$pids" ] || { echo "microkube: processes that cannot be ended: $what, PIDs $pids" >&2; return 1; }
}

# end_machines BIN: shuts down the emulated hosts of this installation
end_machines() {
    for pid in $(machines_of "$1"); do
        run=$(argument "/proc/$pid" -pidfile 2>/dev/null) || continue
        # Without the configuration file, because that may be wrong.
        [ ! -x "$1/microkube" ] ||
            MICROKUBE_CONFIG='' MICROKUBE_RUN_DIR="${run%/machine/qemu.pid}" "$1/microkube" machine stop >/dev/null || true
    done
    end "the emulated host" machines_of "$1"
}
