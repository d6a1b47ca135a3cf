// The common schedules in words. Every other schedule is shown as it was written.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const WORDS: Record<string, string> = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
};

/** `every day at 02:00`, or null if there are no words for it. */
export function inWords(text: string | null | undefined): string | null {
    if (!text) return null;
    const zoned = /^(?:CRON_)?TZ=(\S+)\s+(.*)$/.exec(text.trim());
    const zone = zoned ? ` ${zoned[1]}` : "";
    const expression = (zoned ? zoned[2]! : text).trim();
    const fields = (WORDS[expression] ?? expression).split(/\s+/);
    if (fields.length !== 5) return null;
    const [minute, hour, day, month, weekday] = fields as [string, string, string, string, string];
    const isNumber = (field: string) => /^\d{1,2}$/.test(field);
    const step = /^\*\/(\d{1,2})$/;
    const free = day === "*" && month === "*" && weekday === "*";
    const two = (field: string) => field.padStart(2, "0");
    if (free && minute === "*" && hour === "*") return `every minute${zone}`;
    const minutes = step.exec(minute);
    if (free && minutes && hour === "*") return minutes[1] === "1" ? `every minute${zone}` : `every ${minutes[1]} minutes${zone}`;
    if (!isNumber(minute)) return null;
    if (free && hour === "*") return minute === "0" ? `every hour${zone}` : `every hour at :${two(minute)}${zone}`;
    const hours = step.exec(hour);
    if (free && hours) return `every ${hours[1]} hours at :${two(minute)}${zone}`;
    if (!isNumber(hour)) return null;
    const at = `at ${two(hour)}:${two(minute)}${zone}`;
    if (free) return `every day ${at}`;
    if (day === "*" && month === "*") {
        if (weekday === "1-5" || weekday.toUpperCase() === "MON-FRI") return `Monday to Friday ${at}`;
        if (/^[0-7]$/.test(weekday)) return `every ${DAYS[Number(weekday)]} ${at}`;
    }
    if (month === "*" && weekday === "*" && isNumber(day)) return `on day ${Number(day)} of each month ${at}`;
    return null;
}
