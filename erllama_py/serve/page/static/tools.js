// Tools that this page answers by itself, to see calls of tools. Each has its schema in OpenAI's form.

export const TOOLS = [
  {
    type: "function",
    function: {
      name: "current_time",
      description: "The date and the time now, in a time zone.",
      parameters: {
        type: "object",
        properties: { time_zone: { type: "string", description: "An IANA name, such as Europe/Paris; UTC by default" } },
        additionalProperties: false,
      },
    },
  },
  {
    type: "function",
    function: {
      name: "roll_dice",
      description: "Roll dice; gives the number on each.",
      parameters: {
        type: "object",
        properties: {
          count: { type: "integer", minimum: 1, maximum: 20 },
          sides: { type: "integer", minimum: 2, maximum: 1000 },
        },
        required: ["count"],
        additionalProperties: false,
      },
    },
  },
];

const ANSWERS = {
  current_time({ time_zone = "UTC" }) {
    const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long", timeZone: time_zone });
    return { now: date.format(new Date()), time_zone };
  },
  roll_dice({ count, sides = 6 }) {
    if (!whole(count, 1, 20) || !whole(sides, 2, 1000)) throw new RangeError("1 to 20 dice of 2 to 1000 sides");
    return { rolled: Array.from({ length: count }, () => 1 + Math.floor(Math.random() * sides)) };
  },
};

const whole = (value, least, most) => Number.isInteger(value) && value >= least && value <= most;

/** What a call `{name, arguments}` gives, as JSON; what goes wrong is told to the model as an error. */
export function answer(call) {
  try {
    const tool = Object.hasOwn(ANSWERS, call.name) ? ANSWERS[call.name] : null;
    if (tool === null) throw new Error(`there is no tool ${call.name}`);
    return JSON.stringify(tool(JSON.parse(call.arguments || "{}")));
  } catch (error) {
    return JSON.stringify({ error: error.message });
  }
}
