// Tables whose order and page are in the address.
import type { ComponentChildren } from "preact";
import { count } from "./format";
import { setQuery } from "./router";

export interface Column<T> {
    id: string;
    name: string;
    /** The name of the order in the address; a column without one can't be sorted. */
    sort?: string;
    isNumber?: boolean;
    cell: (row: T) => ComponentChildren;
}

export interface Order {
    by: string;
    isDescending: boolean;
}

/** `-end` is descending by `end`. */
export function orderOf(text: string | null, otherwise: string): Order {
    const given = text || otherwise;
    return given.startsWith("-") ? { by: given.slice(1), isDescending: true } : { by: given, isDescending: false };
}

export function Table<T>({
    label,
    columns,
    rows,
    keyOf,
    order,
    isStale = false,
    selection,
}: {
    label: string;
    columns: Column<T>[];
    rows: readonly T[];
    keyOf: (row: T) => string;
    order?: Order;
    isStale?: boolean;
    selection?: { selected: ReadonlySet<string>; toggle: (key: string) => void; toggleAll: () => void };
}) {
    const isAll = selection !== undefined && rows.length > 0 && rows.every((row) => selection.selected.has(keyOf(row)));
    return (
        <div class="table-box">
            <table class={isStale ? "stale" : ""} aria-label={label}>
                <thead>
                    <tr>
                        {selection && (
                            <th class="check">
                                <input type="checkbox" aria-label="Select all rows of this page" checked={isAll} onChange={selection.toggleAll} />
                            </th>
                        )}
                        {columns.map((column) => {
                            const isSorted = order && column.sort === order.by;
                            return (
                                <th key={column.id} scope="col" class={column.isNumber ? "number" : ""} {...(isSorted ? { "aria-sort": order.isDescending ? ("descending" as const) : ("ascending" as const) } : {})}>
                                    {column.sort && order ? (
                                        <button type="button" class="sort" onClick={() => setQuery({ sort: isSorted && !order.isDescending ? `-${column.sort}` : column.sort!, page: null })}>
                                            {column.name}
                                            {isSorted && <span aria-hidden="true">{order.isDescending ? " ↓" : " ↑"}</span>}
                                        </button>
                                    ) : (
                                        column.name
                                    )}
                                </th>
                            );
                        })}
                    </tr>
                </thead>
                <tbody>
                    {rows.map((row) => {
                        const key = keyOf(row);
                        return (
                            <tr key={key} class={selection?.selected.has(key) ? "selected" : ""}>
                                {selection && (
                                    <td class="check">
                                        <input type="checkbox" aria-label={`Select ${key}`} checked={selection.selected.has(key)} onChange={() => selection.toggle(key)} />
                                    </td>
                                )}
                                {columns.map((column) => (
                                    <td key={column.id} class={column.isNumber ? "number" : ""} data-name={column.name}>
                                        {column.cell(row)}
                                    </td>
                                ))}
                            </tr>
                        );
                    })}
                </tbody>
            </table>
        </div>
    );
}

export const SIZES = [25, 50, 100];

/** `1–50 of 3,000`, with the pages before and after. The total may come later than the rows. */
export function Pager({ page, size, rows, total }: { page: number; size: number; rows: number; total: number | undefined }) {
    const from = (page - 1) * size;
    const isLast = total === undefined ? rows < size : from + rows >= total;
    return (
        <div class="pager">
            <span role="status">
                {rows === 0 ? "0" : `${count(from + 1)}–${count(from + rows)}`} of {total === undefined ? "…" : count(total)}
            </span>
            <button type="button" class="small" disabled={page <= 1} onClick={() => setQuery({ page: page <= 2 ? null : page - 1 }, false)} aria-label="Previous page">
                ‹
            </button>
            <button type="button" class="small" disabled={isLast} onClick={() => setQuery({ page: page + 1 }, false)} aria-label="Next page">
                ›
            </button>
            <span class="choice">
                <select aria-label="Rows per page" value={String(size)} onChange={(event) => setQuery({ size: event.currentTarget.value, page: null })}>
                    {SIZES.map((n) => (
                        <option key={n} value={String(n)}>
                            {n} rows
                        </option>
                    ))}
                </select>
            </span>
        </div>
    );
}

export function pageOf(query: URLSearchParams): { page: number; size: number } {
    const number = (name: string, otherwise: number) => {
        const given = Number(query.get(name));
        return Number.isInteger(given) && given > 0 ? given : otherwise;
    };
    return { page: number("page", 1), size: Math.min(100, number("size", 50)) };
}
