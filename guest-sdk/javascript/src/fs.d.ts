/**
 * The directories of a run: `/scratch`, which starts empty and goes with the run (a tool plugin has none), and `/workspace`,
 * the user's files, if the plugin needs `workspace` and the user was granted it. Paths are absolute. All of it throws a
 * `FileError` where it fails, with a `kind` as `no_entry`.
 */

/** A file as a whole. It must fit into the run's memory. */
export declare function readFile(path: string): Uint8Array<ArrayBuffer>;
/** A text file as a whole. Throws a `TypeError` if it is not UTF-8. */
export declare function readTextFile(path: string): string;
/** Makes a file, or replaces what is in it. A text is written as UTF-8. */
export declare function writeFile(path: string, data: Uint8Array | string): void;
/** Adds to the end of a file, which is made if it is not there. */
export declare function appendFile(path: string, data: Uint8Array | string): void;
/** What a directory holds, by name. */
export declare function readDir(path: string): { name: string; kind: "file" | "directory" }[];
/** What a path is, and the size of a file in bytes. */
export declare function stat(path: string): { kind: "file" | "directory"; size: number };
/** Whether there is something at a path. */
export declare function exists(path: string): boolean;
/** Makes a directory, and those on the way to it. One that is there already is no error. */
export declare function makeDir(path: string): void;
/** Moves a file or directory; a file that is there already is replaced. */
export declare function rename(from: string, to: string): void;
/** Removes a file, or a directory that is empty. */
export declare function remove(path: string): void;
